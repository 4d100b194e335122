//! Decides which store a URI names and what the environment adds to it. Never makes a request.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::Store;
use crate::error::{Error, Result, StoreError};

/// A request without an answer is repeated this long: enough for a store that restarts.
const RETRY_TIMEOUT_SECONDS: u64 = 30;
/// More than fit into that time, so that the time decides and not the number.
const MAX_RETRIES: usize = 30;
/// A single request moves at most one part (16 MiB): slower than 140 KB/s is no answer.
const REQUEST_TIMEOUT_SECONDS: u64 = 120;

/// Makes *ring* the process's provider of cryptography for TLS, unless there is one: the HTTP client of the
/// stores is built without a provider of its own, and panics where none is installed.
fn install_tls_provider() {
    // The error says that another provider is installed already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

type StoreEnvironment = Vec<(String, String)>;

pub(super) fn open_uri(
    uri: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Store> {
    if !uri.contains("://") && !uri.starts_with("file:") {
        return open_local_folder(std::path::Path::new(uri), uri);
    }

    install_tls_provider();
    let url = Url::parse(uri).map_err(|error| invalid_uri(uri, &error.to_string()))?;
    let (scheme, prefix) =
        ObjectStoreScheme::parse(&url).map_err(|error| invalid_uri(uri, &error.to_string()))?;
    let environment = store_variables(environment);
    let failed = |source| StoreError::new("open", uri.to_owned(), source);
    let objects: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Local => {
            let path = url
                .to_file_path()
                .map_err(|()| invalid_uri(uri, "it names no local path"))?;
            return open_local_folder(&path, uri);
        }
        ObjectStoreScheme::AmazonS3 => {
            let builder = s3_builder(uri, &url, &environment)?;
            Arc::new(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            Arc::new(gcs_builder(uri, &environment).build().map_err(failed)?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            Arc::new(azure_builder(uri, &environment).build().map_err(failed)?)
        }
        ObjectStoreScheme::Http => Arc::new(http_builder(&url).build().map_err(failed)?),
        _ => return Err(invalid_uri(uri, "its scheme is not one we read")),
    };

    // Plain web servers take no uploads; refusing here says so before hours of work are lost.
    let read_only = scheme == ObjectStoreScheme::Http;
    Ok(Store {
        objects,
        prefix,
        uri: uri.trim_end_matches('/').to_owned(),
        read_only,
    })
}

fn open_local_folder(path: &std::path::Path, uri: &str) -> Result<Store> {
    let absolute = std::path::absolute(path).map_err(Error::file("open", path))?;
    let prefix = Path::from_absolute_path(&absolute)
        .map_err(|error| invalid_uri(uri, &error.to_string()))?;
    // Synced to disk: a checkpoint whose manifest is written must be there after a power failure.
    let objects = Arc::new(LocalFileSystem::new().with_fsync(true));

    Ok(Store {
        objects,
        prefix,
        uri: uri.trim_end_matches('/').to_owned(),
        read_only: false,
    })
}

/// Path-style addresses and the endpoint as given: what MinIO, Ceph and versitygw expect.
fn s3_builder(uri: &str, url: &Url, environment: &StoreEnvironment) -> Result<AmazonS3Builder> {
    let value = |names: &[&str]| {
        let found = environment
            .iter()
            .find(|(key, _)| names.contains(&key.as_str()));
        found.map(|(_, value)| value.as_str())
    };

    let endpoint = value(&["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"]);
    let signed = value(&["aws_skip_signature"]).is_none_or(|skip| skip != "true");
    let keys = ["aws_access_key_id", "aws_web_identity_token_file"];

    // Without keys the client would ask the metadata service of a cloud that is not there, for a minute.
    if endpoint.is_some() && signed && value(&keys).is_none() {
        return Err(Error::Config(format!(
            "cannot sign requests for {uri}: AWS_ENDPOINT_URL is set but AWS_ACCESS_KEY_ID is not. \
             Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a \
             public bucket)."
        )));
    }

    let start = AmazonS3Builder::new()
        .with_url(url.as_str())
        .with_retry(retry_config());

    let builder = apply_environment(start, environment, AmazonS3Builder::with_config)
        .with_client_options(client_options(
            endpoint.is_some_and(|e| e.starts_with("http://")),
        ));
    Ok(match endpoint {
        // The path of a request begins with a slash of its own.
        Some(endpoint) => builder.with_endpoint(endpoint.trim_end_matches('/')),
        None => builder,
    })
}

fn gcs_builder(uri: &str, environment: &StoreEnvironment) -> GoogleCloudStorageBuilder {
    let start = GoogleCloudStorageBuilder::new()
        .with_url(uri)
        .with_retry(retry_config());

    apply_environment(start, environment, GoogleCloudStorageBuilder::with_config)
        .with_client_options(client_options(false))
}

fn azure_builder(uri: &str, environment: &StoreEnvironment) -> MicrosoftAzureBuilder {
    let start = MicrosoftAzureBuilder::new()
        .with_url(uri)
        .with_retry(retry_config());

    apply_environment(start, environment, MicrosoftAzureBuilder::with_config)
        .with_client_options(client_options(false))
}

fn http_builder(url: &Url) -> HttpBuilder {
    // The path is the prefix, as in the other stores; the client gets the host alone.
    let host = &url[..url::Position::BeforePath];
    HttpBuilder::new()
        .with_url(host)
        .with_retry(retry_config())
        .with_client_options(client_options(url.scheme() == "http"))
}

/// The variables that configure a store, keys in lower case, names we do not know left out later.
fn store_variables(environment: impl Iterator<Item = (String, String)>) -> StoreEnvironment {
    environment
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .filter(|(key, value)| {
            // An empty value comes from a Secret's key that is optional; the client would take it for a key.
            let ours = ["aws_", "google_", "azure_"]
                .iter()
                .any(|start| key.starts_with(start));
            ours && !value.is_empty()
        })
        .collect()
}

fn apply_environment<B, K: std::str::FromStr>(
    builder: B,
    environment: &StoreEnvironment,
    with: impl Fn(B, K, String) -> B,
) -> B {
    environment
        .iter()
        .fold(builder, |builder, (key, value)| match key.parse() {
            Ok(key) => with(builder, key, value.clone()),
            Err(_) => builder,
        })
}

fn client_options(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_timeout(Duration::from_secs(REQUEST_TIMEOUT_SECONDS))
        // A host that does not answer at all is found out sooner than a slow one.
        .with_connect_timeout(Duration::from_secs(5))
}

fn retry_config() -> RetryConfig {
    RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: Duration::from_secs(RETRY_TIMEOUT_SECONDS),
        backoff: BackoffConfig {
            max_backoff: Duration::from_secs(5),
            ..BackoffConfig::default()
        },
    }
}

fn invalid_uri(uri: &str, found: &str) -> Error {
    Error::Config(format!(
        "{uri:?} is not a place to read or write: {found}. Expected s3://bucket/prefix, \
         gs://bucket/prefix, az://container/prefix, https://host/path, file:///path or a path."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_over_tls_are_opened_with_a_provider_of_cryptography() {
        for uri in [
            "https://example.com/data",
            "s3://bucket/data",
            "gs://bucket/data",
        ] {
            let environment = [
                ("AWS_REGION", "eu-central-1"),
                ("GOOGLE_SKIP_SIGNATURE", "true"),
            ];
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            open_uri(uri, environment.into_iter()).unwrap();
        }
    }

    /// URI, environment, and what is expected.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    fn with(uri: &str, environment: &[(&str, &str)]) -> Result<Store> {
        open_uri(
            uri,
            environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        )
    }

    #[test]
    fn each_scheme_opens_its_store() {
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "account")];
        let google = [("GOOGLE_SKIP_SIGNATURE", "true")];
        let table: [Row<'_>; 6] = [
            ("s3://bucket/a/b/", &keys, "AmazonS3(bucket)"),
            ("gs://bucket/a/b", &google, "GoogleCloudStorage(bucket)"),
            (
                "az://container/a/b",
                &azure,
                "MicrosoftAzure { account: account",
            ),
            ("https://host/a/b", &[], "HttpStore"),
            ("file:///a/b", &[], "LocalFileSystem(file:///)"),
            ("/a/b/", &[], "LocalFileSystem(file:///)"),
        ];

        for (uri, environment, store) in table {
            let opened = with(uri, environment).unwrap();
            assert!(
                opened.objects.to_string().starts_with(store),
                "{}",
                opened.objects
            );

            assert_eq!(opened.prefix.as_ref(), "a/b", "{uri}");
            assert_eq!(opened.uri(), uri.trim_end_matches('/'));
        }
    }

    #[test]
    fn a_plain_endpoint_is_used_without_further_settings() {
        let environment = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:7070/"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
        ];

        let url = Url::parse("s3://bucket/x").unwrap();
        let environment =
            store_variables(environment.map(|(k, v)| (k.into(), v.into())).into_iter());
        let builder = s3_builder("s3://bucket/x", &url, &environment).unwrap();
        let value = |key| builder.get_config_value(&key);
        use object_store::aws::AmazonS3ConfigKey as Key;
        assert_eq!(
            value(Key::Endpoint).as_deref(),
            Some("http://127.0.0.1:7070")
        );

        assert_eq!(
            value(Key::VirtualHostedStyleRequest).as_deref(),
            Some("false")
        );

        let allow = Key::Client(object_store::ClientConfigKey::AllowHttp);
        assert_eq!(value(allow).as_deref(), Some("true"));
    }

    #[test]
    fn what_cannot_work_says_what_to_do() {
        let endpoint = [("AWS_ENDPOINT_URL", "http://127.0.0.1:7070")];
        let table: [Row<'_>; 3] = [
            ("s3://bucket/x", &endpoint, "Set AWS_ACCESS_KEY_ID"),
            ("ftp://host/x", &[], "Expected s3://bucket/prefix"),
            ("s3://", &[], "Expected s3://bucket/prefix"),
        ];

        for (uri, environment, advice) in table {
            let error = with(uri, environment).unwrap_err();
            assert!(error.to_string().contains(advice), "{error}");
            assert_eq!(error.exit().exit_code(), 78);
        }
    }

    #[test]
    fn a_web_server_is_read_only() {
        let store = with("https://host/data", &[]).unwrap();
        let error = store.put("x", bytes::Bytes::new()).unwrap_err();
        assert_eq!(error.exit().exit_code(), 78);
        assert!(error.to_string().contains("https://host/data/x"), "{error}");
    }
}
