//! Splits a URI into a store and the prefix in it. Makes no request, and reads no environment.

use std::io;
use std::path::{Component, Path as FilePath, PathBuf};

use object_store::ObjectStoreScheme;
use object_store::path::Path;
use url::Url;

use crate::error::{Error, Result};
use crate::redact::redact_uri;

/// What a URI names.
///
/// ```
/// use cnclip_data::store::StoreLocation;
///
/// let location = StoreLocation::parse("s3://bucket/data/muge/")?;
/// assert!(matches!(location, StoreLocation::Objects { prefix, .. } if prefix.as_ref() == "data/muge"));
/// # Ok::<(), cnclip_data::error::Error>(())
/// ```
#[derive(Debug)]
pub enum StoreLocation {
    /// A folder of this machine, absolute.
    Folder(PathBuf),
    /// A prefix in a bucket, a container or a web server.
    Objects {
        /// The kind of store.
        scheme: ObjectStoreScheme,
        /// The URI without the prefix.
        root: Url,
        /// The prefix.
        prefix: Path,
    },
}

/// Schemes whose keys are taken to the letter, as `aws s3 cp` and `gcloud storage cp` take them: nothing in them is
/// percent-encoded, and `#` and `?` are characters like any other.
const OBJECT_SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];

impl StoreLocation {
    /// Splits a URI or a path. Follows symbolic links of a path, and looks at nothing else.
    ///
    /// # Errors
    /// If the URI has no scheme that is known, or names no place in it; if it carries credentials.
    pub fn parse(uri: &str) -> Result<Self> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return parse_path(uri);
        };

        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "file" => parse_file_uri(uri, rest),
            "http" | "https" => parse_web_uri(uri),
            known if OBJECT_SCHEMES.contains(&known) => parse_object_uri(uri, &scheme, rest),
            _ => Err(invalid_uri(uri, "its scheme is not one we read")),
        }
    }
}

fn parse_path(path: &str) -> Result<StoreLocation> {
    // A slash is missing: a folder of that name would be made, which is not what was meant.
    let scheme = path.split_once(":/").map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| is_known_scheme(&scheme.to_ascii_lowercase())) {
        return Err(invalid_uri(path, "two slashes must follow its scheme"));
    }

    local_folder(path, FilePath::new(path))
}

fn is_known_scheme(scheme: &str) -> bool {
    matches!(scheme, "file" | "http" | "https") || OBJECT_SCHEMES.contains(&scheme)
}

/// RFC 8089: the path is percent-encoded. A `#` or `?` is part of it all the same, as it would cut off the rest.
fn parse_file_uri(uri: &str, rest: &str) -> Result<StoreLocation> {
    let path = match rest.strip_prefix("localhost/") {
        Some(path) => format!("/{path}"),
        None => rest.to_owned(),
    };

    if !path.starts_with('/') {
        return Err(invalid_uri(uri, "it names no local path"));
    }

    let encoded = path.replace('#', "%23").replace('?', "%3F");
    let decoded = Url::parse(&format!("file://{encoded}"))
        .ok()
        .and_then(|url| url.to_file_path().ok())
        .ok_or_else(|| invalid_uri(uri, "it names no local path"))?;

    local_folder(uri, &decoded)
}

fn parse_object_uri(uri: &str, scheme: &str, rest: &str) -> Result<StoreLocation> {
    let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
    let has_user = authority
        .split_once('@')
        .is_some_and(|(user, _)| user.contains(':') || !scheme.starts_with("abfs"));

    if has_user {
        return Err(credentials_in_uri(uri));
    }

    let root = Url::parse(&format!("{scheme}://{authority}"))
        .map_err(|error| invalid_uri(uri, &error.to_string()))?;
    let (scheme, _) = ObjectStoreScheme::parse(&root)
        .map_err(|_| invalid_uri(uri, "it names no bucket or container"))?;
    let prefix = Path::parse(key).map_err(|error| invalid_uri(uri, &error.to_string()))?;

    Ok(StoreLocation::Objects {
        scheme,
        root,
        prefix,
    })
}

fn parse_web_uri(uri: &str) -> Result<StoreLocation> {
    let url = Url::parse(uri).map_err(|error| invalid_uri(uri, &error.to_string()))?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user || url.query().is_some() {
        return Err(credentials_in_uri(uri));
    }

    if url.fragment().is_some() {
        return Err(invalid_uri(uri, "write the # in it as %23"));
    }

    let (scheme, prefix) =
        ObjectStoreScheme::parse(&url).map_err(|error| invalid_uri(uri, &error.to_string()))?;
    let root = match scheme {
        // The path is the prefix, as in the other stores; the client gets the host alone.
        ObjectStoreScheme::Http => url[..url::Position::BeforePath].parse(),
        _ => Ok(url),
    };

    Ok(StoreLocation::Objects {
        scheme,
        root: root.map_err(|_| invalid_uri(uri, "it names no host"))?,
        prefix,
    })
}

fn local_folder(uri: &str, path: &FilePath) -> Result<StoreLocation> {
    let folder = absolute_path(path).map_err(Error::file("open", path))?;
    match folder.to_str() {
        Some(_) => Ok(StoreLocation::Folder(folder)),
        None => Err(invalid_uri(uri, "it is not UTF-8")),
    }
}

/// The path from the root, without `.` and `..`. What is there is followed through symbolic links, as the system
/// does it; what is not there yet cannot be a link.
fn absolute_path(path: &FilePath) -> io::Result<PathBuf> {
    // An empty path is what is left of the parent of a file without a folder.
    let path = std::path::absolute(if path.as_os_str().is_empty() {
        FilePath::new(".")
    } else {
        path
    })?;

    let mut resolved = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                resolved = std::fs::canonicalize(&resolved).unwrap_or(resolved);
                resolved.pop();
            }
            part => resolved.push(part),
        }
    }

    Ok(resolved)
}

fn credentials_in_uri(uri: &str) -> Error {
    invalid_uri(
        uri,
        "a user, a password or a signature does not belong there, as URIs are logged and stored. Give \
         credentials by the environment or a Secret",
    )
}

pub(super) fn invalid_uri(uri: &str, found: &str) -> Error {
    Error::Config(format!(
        "{:?} is not a place to read or write: {found}. Expected s3://bucket/prefix, \
         gs://bucket/prefix, az://container/prefix, https://host/path, file:///path or a path.",
        redact_uri(uri)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(uri: &str) -> (String, String) {
        match StoreLocation::parse(uri).unwrap() {
            StoreLocation::Objects { root, prefix, .. } => (root.to_string(), prefix.to_string()),
            StoreLocation::Folder(folder) => (String::new(), folder.display().to_string()),
        }
    }

    #[test]
    fn keys_are_kept_to_the_letter() {
        let keys = [
            "exp#3",
            "exp?3",
            "a%20b",
            "a b/猫",
            "a+b&c",
            "x/100%/y#1?2",
            "~a/[b]",
        ];

        for key in keys {
            for scheme in ["s3", "gs", "az", "S3"] {
                let (root, found) = key_of(&format!("{scheme}://bucket/{key}/"));
                assert_eq!(root, format!("{}://bucket", scheme.to_lowercase()));
                assert_eq!(found, key);
            }

            let (_, found) = key_of(&format!("/tmp/{key}/"));
            assert_eq!(found.trim_end_matches('/'), format!("/tmp/{key}"));
        }
    }

    #[test]
    fn a_file_uri_is_percent_encoded_and_not_cut_off() {
        let table = [
            ("file:///tmp/q/out#3", "/tmp/q/out#3"),
            ("file:///tmp/q/out?3/", "/tmp/q/out?3"),
            ("file:///tmp/a%20b", "/tmp/a b"),
            ("file://localhost/tmp/x", "/tmp/x"),
            ("FILE:///tmp/x", "/tmp/x"),
        ];

        for (uri, path) in table {
            assert_eq!(key_of(uri).1, path, "{uri}");
        }
    }

    #[test]
    fn parent_folders_are_resolved_as_the_system_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink(root.join("a/b"), root.join("link")).unwrap();

        let table = [
            ("a/../c", root.join("c")),
            ("link/../c", root.join("a/c")),
            ("absent/../c", root.join("c")),
            ("./a/./b", root.join("a/b")),
        ];

        for (path, expected) in table {
            assert_eq!(absolute_path(&root.join(path)).unwrap(), expected, "{path}");
        }

        assert_eq!(
            absolute_path(FilePath::new("")).unwrap(),
            std::env::current_dir().unwrap()
        );
    }

    #[test]
    fn what_names_no_place_is_refused_with_advice_and_without_its_secret() {
        let table = [
            ("s3://b/a/../c", ".."),
            ("s3://b/a//c", "empty"),
            ("s3://", "bucket"),
            ("s3:/b/c", "two slashes"),
            ("ftp://h/x", "scheme"),
            ("file://host/x", "no local path"),
            ("https://h/x?sig=secret", "Secret"),
            ("https://me:secret@h/x", "Secret"),
            ("s3://key:secret@b/x", "Secret"),
            ("https://h/x#1", "%23"),
        ];

        for (uri, words) in table {
            let error = StoreLocation::parse(uri).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.exit().exit_code(), 78, "{text}");
            assert!(text.contains("Expected s3://bucket/prefix"), "{text}");
            assert!(
                text.to_lowercase().contains(&words.to_lowercase()),
                "{text}"
            );
            assert!(
                !text.contains("secret@") && !text.contains("=secret"),
                "{text}"
            );
        }
    }
}
