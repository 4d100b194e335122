//! What a store's answer means to a user and what to do about it. Never makes a request.

use object_store::Error as Source;

use cnclip_crds::exit_code::TrainerExit;

/// What kind of answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No object of that name.
    NotFound,
    /// No bucket or container of that name.
    BucketNotFound,
    /// The credentials are wrong or absent.
    Unauthenticated,
    /// The credentials may not do this.
    PermissionDenied,
    /// The store cannot be written to.
    ReadOnly,
    /// No answer, or one that may be different the next time.
    Unavailable,
}

/// A request to a store that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {uri}: {}{}", .kind.explain_cause(.verb), error_detail(*.kind, .source))]
pub struct StoreError {
    /// `read`, `write`, `list`, `delete` or `open`.
    pub verb: &'static str,
    /// On which object or prefix.
    pub uri: String,
    /// What came back.
    pub kind: StoreErrorKind,
    source: Option<Source>,
}

impl StoreError {
    pub(crate) fn new(verb: &'static str, uri: String, source: Source) -> Self {
        Self {
            verb,
            uri,
            kind: StoreErrorKind::classify_source(&source),
            source: Some(source),
        }
    }

    pub(crate) fn read_only(uri: String) -> Self {
        Self {
            verb: "write",
            uri,
            kind: StoreErrorKind::ReadOnly,
            source: None,
        }
    }

    /// The exit code of a process that can not go on for it.
    pub fn exit(&self) -> TrainerExit {
        if self.is_transient() {
            TrainerExit::Retry
        } else {
            TrainerExit::Config
        }
    }

    /// Whether the same request may succeed later without a change of configuration.
    pub fn is_transient(&self) -> bool {
        self.kind == StoreErrorKind::Unavailable
    }
}

impl StoreErrorKind {
    fn classify_source(source: &Source) -> Self {
        // The crate's own classes come from HTTP statuses, which the stores use differently: S3 answers 404 for a
        // missing bucket and 403 for a wrong key. The code in the body is what tells them apart, so it is asked
        // first.
        let text = source.to_string();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match source {
            _ if says(&["NoSuchBucket", "ContainerNotFound"]) => Self::BucketNotFound,
            _ if says(&[
                "InvalidAccessKeyId",
                "SignatureDoesNotMatch",
                "ExpiredToken",
            ]) =>
            {
                Self::Unauthenticated
            }
            Source::NotFound { .. } => Self::NotFound,
            Source::Unauthenticated { .. } => Self::Unauthenticated,
            Source::PermissionDenied { .. } => Self::PermissionDenied,
            // Without credentials the client asks the metadata service of the cloud, which elsewhere times out.
            _ if says(&["169.254.169.254", "metadata.google.internal"]) => Self::Unauthenticated,
            _ if says(&["Permission denied (os error 13)"]) => Self::PermissionDenied,
            _ if says(&["Read-only file system"]) => Self::ReadOnly,
            // What is unknown is taken for transient: a run that is retried in vain costs less than one that is
            // given up for a passing failure.
            _ => Self::Unavailable,
        }
    }

    fn explain_cause(self, verb: &str) -> &'static str {
        match self {
            Self::NotFound => "it does not exist. Check the name",
            Self::BucketNotFound => "the bucket does not exist. Create it or correct the URI",
            Self::Unauthenticated => {
                "the store does not know these credentials. Check the Secret or the environment \
                 (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, GOOGLE_*, AZURE_*)"
            }
            Self::PermissionDenied if verb == "write" => {
                "these credentials may not write there. Grant them write access"
            }
            Self::PermissionDenied => "these credentials may not do this. Grant them access",
            Self::ReadOnly => "this place can only be read. Name one that can be written to",
            Self::Unavailable => "the store did not answer as it should, after repeats",
        }
    }
}

/// The answer itself, short enough for a condition: the store's own code for a known failure, the beginning of
/// the whole answer for an unknown one.
fn error_detail(kind: StoreErrorKind, source: &Option<Source>) -> String {
    const MAX_DETAIL_CHARS: usize = 240;
    let Some(source) = source else {
        return String::new();
    };

    let line = error_chain(source)
        .join(": ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");

    if kind != StoreErrorKind::Unavailable {
        let code = line
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"));

        return code
            .map(|(code, _)| format!(" ({code})"))
            .unwrap_or_default();
    }

    match line.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!(" ({}…)", &line[..end]),
        None => format!(" ({line})"),
    }
}

/// The messages of an error and its causes, without those that an outer one already quotes.
fn error_chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut messages = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !messages.iter().any(|message| message.contains(&text)) {
            messages.push(text);
        }

        next = cause.source();
    }

    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_classified_by_what_it_means() {
        let path = || "x".to_owned();
        let missing = |text: &str| Source::NotFound {
            path: path(),
            source: text.into(),
        };

        let denied = |text: &str| Source::PermissionDenied {
            path: path(),
            source: text.into(),
        };

        let other = |text: &str| Source::Generic {
            store: "S3",
            source: text.into(),
        };

        let table = [
            (
                missing("<Code>NoSuchKey</Code>"),
                StoreErrorKind::NotFound,
                false,
            ),
            (
                missing("<Code>NoSuchBucket</Code>"),
                StoreErrorKind::BucketNotFound,
                false,
            ),
            (
                denied("<Code>InvalidAccessKeyId</Code>"),
                StoreErrorKind::Unauthenticated,
                false,
            ),
            (
                denied("<Code>SignatureDoesNotMatch</Code>"),
                StoreErrorKind::Unauthenticated,
                false,
            ),
            (
                denied("<Code>AccessDenied</Code>"),
                StoreErrorKind::PermissionDenied,
                false,
            ),
            (
                other("http://169.254.169.254/latest: timed out"),
                StoreErrorKind::Unauthenticated,
                false,
            ),
            (
                other("connection refused"),
                StoreErrorKind::Unavailable,
                true,
            ),
        ];

        for (source, fault, may_pass) in table {
            let error = StoreError::new("read", "s3://b/x".into(), source);
            assert_eq!(
                (error.kind, error.is_transient()),
                (fault, may_pass),
                "{error}"
            );

            assert!(
                error.to_string().starts_with("cannot read s3://b/x: "),
                "{error}"
            );

            assert!(!error.to_string().contains("<Code>"), "{error}");
        }
    }

    #[test]
    fn a_long_answer_is_one_short_line() {
        let page = format!("<html>\n{}</html>", "好 ".repeat(4000));
        let source = Source::Generic {
            store: "HTTP",
            source: page.into(),
        };

        let text = StoreError::new("list", "https://h/x".into(), source).to_string();
        assert!(
            text.len() < 1000 && !text.contains('\n') && text.ends_with("…)"),
            "{text}"
        );
    }
}
