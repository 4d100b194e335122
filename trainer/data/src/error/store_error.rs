//! What a store's answer means to a user and what to do about it. Never makes a request.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

use object_store::Error as Source;
use object_store::client::HttpError;

use cnclip_crds::exit_code::TrainerExit;

use crate::redact::redact_uri;

/// What kind of answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No object of that name.
    NotFound,
    /// No bucket or container of that name.
    BucketNotFound,
    /// The credentials are wrong, expired or absent.
    Unauthenticated,
    /// The credentials may not do this.
    PermissionDenied,
    /// The store cannot be written to.
    ReadOnly,
    /// The bucket is in another region than the client was configured for.
    WrongRegion,
    /// The store wants the bucket in the host name.
    VirtualHostRequired,
    /// The clock of this machine differs too much from that of the store.
    ClockSkew,
    /// The certificate of the store is not signed by an authority that is known here.
    UntrustedCertificate,
    /// The volume or the quota is full.
    NoSpace,
    /// A file is where a folder is expected, or the reverse.
    NotAFolder,
    /// A name that a store holds or that was asked for cannot be used.
    InvalidName,
    /// The object ends before the bytes that were asked for.
    InvalidRange,
    /// An object of so many bytes does not fit into memory.
    TooLarge(u64),
    /// The store answered, and will answer the same the next time.
    Rejected,
    /// No answer, or one that may be different the next time.
    Unavailable,
}

/// What was asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreVerb {
    /// An object or a part of it.
    Read,
    /// An object.
    Write,
    /// What is below a prefix.
    List,
    /// An object.
    Delete,
    /// The client of a store, which makes no request.
    Open,
}

/// A request to a store that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {uri}: {}{}", self.explain_cause(), self.detail())]
pub struct StoreError {
    /// What was tried.
    pub verb: StoreVerb,
    /// On which object or prefix.
    pub uri: String,
    /// What came back.
    pub kind: StoreErrorKind,
    /// Whether requests of this kind had worked before: what fails then is taken for an outage.
    worked_before: bool,
    source: Option<Source>,
}

impl StoreError {
    pub(crate) fn new(verb: StoreVerb, uri: &str, source: Source) -> Self {
        Self {
            verb,
            uri: redact_uri(uri),
            kind: StoreErrorKind::classify_source(&source),
            worked_before: false,
            source: Some(source),
        }
    }

    /// What the client of the store said.
    pub(crate) fn into_source(self) -> Source {
        self.source.unwrap_or(Source::NotImplemented {
            operation: self.verb.to_string(),
            implementer: self.uri,
        })
    }

    /// An object of this size, which cannot be held.
    pub(crate) fn too_large(uri: &str, bytes: u64) -> Self {
        Self {
            verb: StoreVerb::Read,
            uri: redact_uri(uri),
            kind: StoreErrorKind::TooLarge(bytes),
            worked_before: false,
            source: None,
        }
    }

    pub(crate) fn read_only(uri: &str) -> Self {
        Self {
            verb: StoreVerb::Write,
            uri: redact_uri(uri),
            kind: StoreErrorKind::ReadOnly,
            worked_before: false,
            source: None,
        }
    }

    /// The error of a request such as had worked before.
    pub(crate) fn after_success(self) -> Self {
        Self {
            worked_before: true,
            ..self
        }
    }

    /// The exit code of a process that can not go on for it.
    pub fn exit(&self) -> TrainerExit {
        if self.is_transient() {
            return TrainerExit::Retry;
        }

        match self.kind {
            StoreErrorKind::InvalidRange => TrainerExit::Data,
            _ => TrainerExit::Config,
        }
    }

    /// Whether the same request may succeed later without a change of configuration.
    pub fn is_transient(&self) -> bool {
        match self.kind {
            StoreErrorKind::Unavailable => true,
            // Credentials that worked once have expired, or what issues them is unreachable: a new process gets
            // new ones.
            StoreErrorKind::Unauthenticated => self.worked_before,
            _ => false,
        }
    }

    fn explain_cause(&self) -> &'static str {
        use StoreErrorKind::{
            BucketNotFound, ClockSkew, InvalidName, InvalidRange, NoSpace, NotAFolder, NotFound,
            PermissionDenied, ReadOnly, Rejected, TooLarge, Unauthenticated, Unavailable,
            UntrustedCertificate, VirtualHostRequired, WrongRegion,
        };

        match self.kind {
            NotFound => "it does not exist. Check the name",
            BucketNotFound => "the bucket does not exist. Create it or correct the URI",
            Unauthenticated if self.worked_before => {
                "the credentials worked before and do no more: they expired, or what issues them does not \
                 answer. A new process reads them again"
            }
            Unauthenticated => {
                "the store does not know these credentials. Check the Secret or the environment \
                 (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, GOOGLE_*, AZURE_*)"
            }
            PermissionDenied if self.verb == StoreVerb::Write => {
                "these credentials may not write there. Grant them write access"
            }
            PermissionDenied => {
                "these credentials may not do this, or the object does not exist and they may not list the \
                 bucket. Grant them access"
            }
            ReadOnly => "this place can only be read. Name one that can be written to",
            WrongRegion => {
                "the bucket is in another region. Set AWS_REGION to the region of the bucket, and \
                 AWS_ENDPOINT_URL to an endpoint there"
            }
            VirtualHostRequired => {
                "the store wants the bucket in the host name. Set AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true"
            }
            ClockSkew => {
                "the clock of this machine differs too much from that of the store. Set it, best by NTP"
            }
            UntrustedCertificate => {
                "its certificate is not signed by an authority known here. Set AWS_CA_BUNDLE or \
                 SSL_CERT_FILE to a file with the certificate of that authority"
            }
            NoSpace => "no space is left there. Free space, enlarge the volume or raise the quota",
            NotAFolder => {
                "a file is where a folder is expected, or the reverse. Name a folder, or the file itself \
                 where one is expected"
            }
            InvalidName => "a name there cannot be used. Rename what is named here",
            InvalidRange => "the object is shorter than it was. Write it again",
            TooLarge(_) => {
                "it is larger than the memory that this process may have. Raise the limit, or split it, such as \
                 a shard by `tar` or `cnclip prepare`"
            }
            Rejected => "this cannot work. Correct the name, the configuration or the store",
            Unavailable => "the store did not answer as it should, after repeats",
        }
    }

    /// The answer itself, short enough for a condition: the store's own code for a known failure, the beginning
    /// of the whole answer for others.
    fn detail(&self) -> String {
        const MAX_DETAIL_CHARS: usize = 240;
        if let StoreErrorKind::TooLarge(bytes) = self.kind {
            return format!(" ({bytes} bytes)");
        }

        let Some(source) = &self.source else {
            return String::new();
        };

        let line = error_chain(source)
            .join(": ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");

        let is_quoted = matches!(
            self.kind,
            StoreErrorKind::Unavailable | StoreErrorKind::Rejected | StoreErrorKind::InvalidName
        );
        if !is_quoted {
            let code = error_code(&line);
            return code.map(|code| format!(" ({code})")).unwrap_or_default();
        }

        match line.char_indices().nth(MAX_DETAIL_CHARS) {
            Some((end, _)) => format!(" ({}…)", &line[..end]),
            None => format!(" ({line})"),
        }
    }
}

impl fmt::Display for StoreVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Open => "open",
        })
    }
}

impl StoreErrorKind {
    fn classify_source(source: &Source) -> Self {
        // The crate's own classes come from HTTP statuses, which the stores use differently: S3 answers 404 for a
        // missing bucket and 403 for a wrong key. The code in the body is what tells them apart, so it is asked
        // first.
        let text = error_chain(source).join(": ");
        if let Some(kind) = error_code(&text).and_then(Self::from_code) {
            return kind;
        }

        match source {
            Source::NotFound { .. } => Self::NotFound,
            Source::Unauthenticated { .. } => Self::Unauthenticated,
            Source::PermissionDenied { .. } => Self::PermissionDenied,
            Source::InvalidPath { .. } => Self::InvalidName,
            _ => Self::from_text(&text)
                .or_else(|| http_status(&text).map(Self::from_status))
                // Before the errors of files, which an error of a connection has among its causes.
                .or_else(|| find_cause::<HttpError>(source).map(|_| Self::Unavailable))
                .or_else(|| find_cause::<io::Error>(source).map(Self::from_io_error))
                // What is unknown is lasting: taken for transient, it would be retried for hours.
                .unwrap_or(Self::Rejected),
        }
    }

    /// By the code that S3, Azure and those who speak like them put into an answer.
    fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "NoSuchBucket" | "ContainerNotFound" => Self::BucketNotFound,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "AuthenticationFailed" => Self::Unauthenticated,
            "RequestTimeTooSkewed" => Self::ClockSkew,
            "SecondLevelDomainForbidden" | "PathStyleDomainForbidden" => Self::VirtualHostRequired,
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException" => Self::WrongRegion,
            "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" => Self::NoSpace,
            _ => return None,
        })
    }

    /// By what the client says that has no class of its own.
    fn from_text(text: &str) -> Option<Self> {
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        // Without credentials the client asks the metadata service of the cloud, which elsewhere times out.
        if says(&[
            "169.254.169.254",
            "169.254.170.",
            "metadata.google.internal",
        ]) {
            return Some(Self::Unauthenticated);
        }

        if says(&["incorrectly configured region"]) {
            return Some(Self::WrongRegion);
        }

        if says(&["invalid peer certificate"]) {
            return Some(Self::UntrustedCertificate);
        }

        if says(&["non-unicode", "are not supported"]) {
            return Some(Self::InvalidName);
        }

        if says(&["Out of range of file", "Requested range was invalid"]) {
            return Some(Self::InvalidRange);
        }

        None
    }

    fn from_io_error(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::PermissionDenied => Self::PermissionDenied,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
            ErrorKind::NotADirectory | ErrorKind::IsADirectory => Self::NotAFolder,
            _ if is_transient_io(error) => Self::Unavailable,
            _ => Self::Rejected,
        }
    }

    fn from_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 | 410 => Self::NotFound,
            301 | 307 | 308 => Self::WrongRegion,
            416 => Self::InvalidRange,
            507 => Self::NoSpace,
            408 | 409 | 425 | 429 | 500.. => Self::Unavailable,
            _ => Self::Rejected,
        }
    }
}

/// Whether the same call on a file may succeed later, on this node or another.
pub(crate) fn is_transient_io(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let is_device_fault = matches!(error.raw_os_error(), Some(EIO | ENFILE | EMFILE));

    is_device_fault
        || matches!(
            error.kind(),
            ErrorKind::Interrupted
                | ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::OutOfMemory
                | ErrorKind::ResourceBusy
                | ErrorKind::StaleNetworkFileHandle
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NetworkDown
                | ErrorKind::NotConnected
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
        )
}

/// The code in the XML of an answer.
fn error_code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}

/// The status of an answer, which the client keeps in its words alone.
fn http_status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("non-2xx status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn find_cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }

        next = cause.source();
    }

    None
}

/// The messages of an error and its causes, without those that an outer one already quotes.
fn error_chain(error: &dyn StdError) -> Vec<String> {
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

    fn generic(text: &str) -> Source {
        Source::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    fn missing(text: &str) -> Source {
        Source::NotFound {
            path: "x".to_owned(),
            source: text.into(),
        }
    }

    fn denied(text: &str) -> Source {
        Source::PermissionDenied {
            path: "x".to_owned(),
            source: text.into(),
        }
    }

    fn status(status: u16, code: &str) -> Source {
        generic(&format!(
            "Error performing GET http://h/b in 2ms - Server returned non-2xx status code: {status} Words: \
             <Error><Code>{code}</Code></Error>"
        ))
    }

    fn local(errno: i32) -> Source {
        Source::Generic {
            store: "LocalFileSystem",
            source: io::Error::from_raw_os_error(errno).into(),
        }
    }

    fn unreachable_host() -> Source {
        let cause = io::Error::other("failed to lookup address information");
        let error = HttpError::new(object_store::client::HttpErrorKind::Connect, cause);
        Source::Generic {
            store: "S3",
            source: error.into(),
        }
    }

    #[test]
    fn an_answer_is_classified_by_what_it_means() {
        use StoreErrorKind as Kind;
        let table = [
            (missing("<Code>NoSuchKey</Code>"), Kind::NotFound, 78),
            (
                missing("<Code>NoSuchBucket</Code>"),
                Kind::BucketNotFound,
                78,
            ),
            (
                denied("<Code>InvalidAccessKeyId</Code>"),
                Kind::Unauthenticated,
                78,
            ),
            (
                denied("<Code>SignatureDoesNotMatch</Code>"),
                Kind::Unauthenticated,
                78,
            ),
            (
                denied("<Code>AccessDenied</Code>"),
                Kind::PermissionDenied,
                78,
            ),
            (
                denied("<Code>RequestTimeTooSkewed</Code>"),
                Kind::ClockSkew,
                78,
            ),
            (
                denied("<Code>SecondLevelDomainForbidden</Code>"),
                Kind::VirtualHostRequired,
                78,
            ),
            (
                generic("http://169.254.169.254/latest: timed out"),
                Kind::Unauthenticated,
                78,
            ),
            (
                generic("redirect, this normally indicates an incorrectly configured region"),
                Kind::WrongRegion,
                78,
            ),
            (status(301, "PermanentRedirect"), Kind::WrongRegion, 78),
            (status(400, "ExpiredToken"), Kind::Unauthenticated, 78),
            (status(400, "InvalidRequest"), Kind::Rejected, 78),
            (status(405, "MethodNotAllowed"), Kind::Rejected, 78),
            (status(416, "InvalidRange"), Kind::InvalidRange, 65),
            (status(429, "SlowDown"), Kind::Unavailable, 75),
            (status(503, "ServiceUnavailable"), Kind::Unavailable, 75),
            (status(500, "InternalError"), Kind::Unavailable, 75),
            (unreachable_host(), Kind::Unavailable, 75),
            (
                generic("invalid peer certificate: UnknownIssuer"),
                Kind::UntrustedCertificate,
                78,
            ),
            (generic("unknown words"), Kind::Rejected, 78),
            (local(5), Kind::Unavailable, 75), // EIO
            (local(13), Kind::PermissionDenied, 78),
            (local(20), Kind::NotAFolder, 78), // ENOTDIR
            (local(21), Kind::NotAFolder, 78), // EISDIR
            (local(28), Kind::NoSpace, 78),    // ENOSPC
            (local(36), Kind::Rejected, 78),   // ENAMETOOLONG
            (local(40), Kind::Rejected, 78),   // ELOOP
            (local(122), Kind::NoSpace, 78),   // EDQUOT
        ];

        for (source, kind, exit_code) in table {
            let error = StoreError::new(StoreVerb::Read, "s3://b/x", source);
            let text = error.to_string();
            assert_eq!(error.kind, kind, "{text}");
            assert_eq!(error.exit().exit_code(), exit_code, "{text}");
            assert!(text.starts_with("cannot read s3://b/x: "), "{text}");

            let is_quoted = matches!(kind, Kind::Rejected | Kind::Unavailable);
            assert!(is_quoted || !text.contains("<Code>"), "{text}");
        }
    }

    #[test]
    fn credentials_that_worked_once_are_worth_another_attempt() {
        let expired = || StoreError::new(StoreVerb::Read, "s3://b/x", status(400, "ExpiredToken"));
        assert_eq!(expired().exit().exit_code(), 78);

        let later = expired().after_success();
        assert_eq!(later.exit().exit_code(), 75);
        assert!(later.to_string().contains("(ExpiredToken)"), "{later}");

        let denied = StoreError::new(StoreVerb::Read, "s3://b/x", denied("no")).after_success();
        assert_eq!(
            denied.exit().exit_code(),
            78,
            "rights are not lost by themselves"
        );
    }

    #[test]
    fn a_long_answer_is_one_short_line_without_the_secrets_of_its_uri() {
        let page = format!("<html>\n{}</html>", "好 ".repeat(4000));
        let error = StoreError::new(StoreVerb::List, "https://me:secret@h/x", generic(&page));
        let text = error.to_string();
        assert!(
            text.len() < 1100 && !text.contains('\n') && text.ends_with("…)"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
}
