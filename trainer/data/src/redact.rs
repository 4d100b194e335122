//! Takes what may be a secret out of URIs before they are shown.

/// A URI without what may be a secret: the password of a user, and the query, which is where signatures are.
///
/// ```
/// use cnclip_data::redact::redact_uri;
///
/// assert_eq!(redact_uri("https://me:secret@host/a?sig=x"), "https://***@host/a?***");
/// assert_eq!(redact_uri("s3://bucket/a?b#c"), "s3://bucket/a?b#c", "a key, to the letter");
/// ```
pub fn redact_uri(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };

    let lowercase = scheme.to_ascii_lowercase();
    let is_web = matches!(lowercase.as_str(), "http" | "https");

    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, String::new()),
    };

    // In `abfs://container@account` the part before the `@` is a name and no secret.
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if is_web || user.contains(':') => {
            format!("***@{host}")
        }
        _ => authority.to_owned(),
    };

    let path = match path.split_once('?') {
        Some((path, _)) if is_web => format!("{path}?***"),
        _ => path,
    };

    format!("{scheme}://{authority}{path}")
}
