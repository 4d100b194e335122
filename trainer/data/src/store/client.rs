//! Builds the clients of the stores, from URIs and the environment. Never makes a request.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use url::Url;

use super::multipart::MultipartClient;
use super::retry::{DEFAULT_OUTAGE, RequestRetry};
use super::uri::{StoreLocation, invalid_uri};
use super::{Cancellation, Store};
use crate::error::{Error, Result, StoreError, StoreVerb};
use crate::redact::redact_uri;

/// The client itself repeats a request this long, for a store that restarts; what lasts longer is repeated from the
/// start, with new credentials and a new signature.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// More than fit into that time, so that the time decides and not the number.
const MAX_RETRIES: usize = 30;
/// No byte for this long is no answer. Less than the time of all repeats, so that the first stall is repeated.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// A single request sends at most one part (16 MiB): slower than 140 KB/s is no connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// A host that does not answer at all is found out sooner than a slow one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long an outage is ridden out, in seconds.
const OUTAGE_VARIABLE: &str = "cnclip_store_outage_seconds";
/// Hosts of stores that refuse the bucket in the path: Alibaba OSS, Tencent COS, Volcengine TOS, Huawei OBS.
const VIRTUAL_HOSTS: [&str; 4] = [
    "aliyuncs.com",
    "myqcloud.com",
    "volces.com",
    "myhuaweicloud.com",
];

/// Makes *ring* the process's provider of cryptography for TLS, unless there is one: the HTTP client of the
/// stores is built without a provider of its own, and panics where none is installed.
fn install_tls_provider() {
    // The error says that another provider is installed already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientUse {
    Reads,
    Writes,
}

pub(super) fn open_uri(
    uri: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Store> {
    let environment = StoreEnvironment::read(environment);
    let (scheme, root, prefix) = match StoreLocation::parse(uri)? {
        StoreLocation::Folder(folder) => return open_local_folder(&folder, uri),
        StoreLocation::Objects {
            scheme,
            root,
            prefix,
        } => (scheme, root, prefix),
    };

    install_tls_provider();
    let build = |client_use| build_client(uri, &scheme, &root, &environment, client_use);

    let writes = build(ClientUse::Writes)?;

    Ok(Store {
        reads: build(ClientUse::Reads)?.objects,
        writes: writes.objects,
        multipart: writes.multipart,
        retry: Arc::new(RequestRetry::new(environment.outage()?)),
        prefix,
        uri: uri.trim_end_matches('/').to_owned(),
        // Plain web servers take no uploads; refusing here says so before hours of work are lost.
        read_only: scheme == ObjectStoreScheme::Http,
        cancellation: Cancellation::default(),
        files: None,
    })
}

fn open_local_folder(folder: &std::path::Path, uri: &str) -> Result<Store> {
    let prefix =
        Path::from_absolute_path(folder).map_err(|error| invalid_uri(uri, &error.to_string()))?;
    // Synced to disk: a checkpoint whose manifest is written must be there after a power failure.
    let objects = Arc::new(LocalFileSystem::new().with_fsync(true));

    Ok(Store {
        files: Some(objects.clone()),
        ..Store::of_objects(objects, prefix, uri)
    })
}

/// The client of one store.
struct Client {
    objects: Arc<dyn ObjectStore>,
    /// None where an upload in parts needs no abort: Azure removes blocks that belong to no object after a week.
    multipart: Option<MultipartClient>,
}

impl Client {
    fn new(objects: impl ObjectStore) -> Self {
        Self {
            objects: Arc::new(objects),
            multipart: None,
        }
    }

    fn with_multipart(objects: impl ObjectStore + MultipartStore) -> Self {
        let objects = Arc::new(objects);
        Self {
            multipart: Some(MultipartClient::new(objects.clone())),
            objects,
        }
    }
}

fn build_client(
    uri: &str,
    scheme: &ObjectStoreScheme,
    root: &Url,
    environment: &StoreEnvironment,
    client_use: ClientUse,
) -> Result<Client> {
    let failed = |source| StoreError::new(StoreVerb::Open, uri, source);
    let options = |allow_http| client_options(environment, allow_http, client_use);

    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let (builder, allow_http) = s3_builder(uri, root, environment)?;
            let builder = builder.with_client_options(options(allow_http)?);
            Client::with_multipart(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let start = GoogleCloudStorageBuilder::new().with_url(root.as_str());
            let builder = environment.apply(start, GoogleCloudStorageBuilder::with_config);
            let builder = builder
                .with_retry(retry_config())
                .with_client_options(options(false)?);

            Client::with_multipart(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let start = MicrosoftAzureBuilder::new().with_url(root.as_str());
            let builder = environment.apply(start, MicrosoftAzureBuilder::with_config);
            let builder = builder
                .with_retry(retry_config())
                .with_client_options(options(false)?);

            Client::new(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::Http => {
            let builder = HttpBuilder::new()
                .with_url(root.as_str())
                .with_retry(retry_config())
                .with_client_options(options(root.scheme() == "http")?);

            Client::new(builder.build().map_err(failed)?)
        }
        _ => return Err(invalid_uri(uri, "its scheme is not one we read")),
    })
}

/// The address of the endpoint as given, and the bucket in the path: what MinIO, Ceph and versitygw expect. Where the
/// bucket has to be in the host name, it is put there. Says too whether it speaks HTTP without TLS.
fn s3_builder(
    uri: &str,
    root: &Url,
    environment: &StoreEnvironment,
) -> Result<(AmazonS3Builder, bool)> {
    let endpoint = environment.value(&["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"]);
    let signed = environment
        .value(&["aws_skip_signature"])
        .is_none_or(|skip| skip != "true");

    // Without keys the client would ask the metadata service of a cloud that is not there, for a minute.
    let keys = ["aws_access_key_id", "aws_web_identity_token_file"];
    if endpoint.is_some() && signed && environment.value(&keys).is_none() {
        return Err(Error::Config(format!(
            "cannot sign requests for {}: AWS_ENDPOINT_URL is set but AWS_ACCESS_KEY_ID is not. \
             Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a \
             public bucket).",
            redact_uri(uri)
        )));
    }

    let start = AmazonS3Builder::new()
        .with_url(root.as_str())
        .with_retry(retry_config())
        // Objects are removed one at a time, and not every store has the request that removes many.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");

    let builder = environment.apply(start, AmazonS3Builder::with_config);
    let Some(endpoint) = endpoint else {
        return Ok((builder, false));
    };

    // The path of a request begins with a slash of its own.
    let endpoint = endpoint.trim_end_matches('/');
    if let Err(error) = Url::parse(endpoint) {
        return Err(Error::Config(format!(
            "AWS_ENDPOINT_URL is {endpoint:?}, which is no address: {error}. Expected https://host or \
             http://host:port."
        )));
    }

    let bucket = root.host_str().unwrap_or_default();
    let builder = match virtual_host(endpoint, bucket, environment) {
        // The name of a host cannot end in an IP address.
        Some(virtual_endpoint) if Url::parse(&virtual_endpoint).is_err() => {
            return Err(Error::Config(format!(
                "the bucket {bucket} cannot be put before the host of {endpoint}: \
                 AWS_VIRTUAL_HOSTED_STYLE_REQUEST needs the name of a host. Unset it, or name the host."
            )));
        }
        Some(endpoint) => builder
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(true),
        None => builder.with_endpoint(endpoint),
    };

    Ok((builder, endpoint.starts_with("http://")))
}

/// The endpoint with the bucket before its host, where the store or the user wants it so.
fn virtual_host(endpoint: &str, bucket: &str, environment: &StoreEnvironment) -> Option<String> {
    let (scheme, host) = endpoint.split_once("://")?;
    let name = host.split([':', '/']).next().unwrap_or_default();
    let is_wanted = match environment.value(&["aws_virtual_hosted_style_request"]) {
        Some(value) => value == "true",
        None => VIRTUAL_HOSTS.iter().any(|end| {
            name.strip_suffix(end)
                .is_some_and(|rest| rest.ends_with('.'))
        }),
    };

    // Other clients want it there already, and it is not put there twice.
    let host = host
        .strip_prefix(bucket)
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(host);

    is_wanted.then(|| format!("{scheme}://{bucket}.{host}"))
}

/// The variables that configure a store, keys in lower case; names we do not know are left out later.
#[derive(Debug)]
struct StoreEnvironment(Vec<(String, String)>);

impl StoreEnvironment {
    fn read(variables: impl Iterator<Item = (String, String)>) -> Self {
        let starts = ["aws_", "google_", "azure_", "cnclip_store_"];
        let ours = |key: &str| starts.iter().any(|start| key.starts_with(start));

        let variables = variables
            .map(|(key, value)| (key.to_ascii_lowercase(), value))
            // An empty value comes from a Secret's key that is optional; the client would take it for a key.
            .filter(|(key, value)| ours(key) && !value.is_empty());

        Self(variables.collect())
    }

    /// The value of the first of several names that is set.
    fn value(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| {
            let found = self.0.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        })
    }

    fn apply<B, K: std::str::FromStr>(&self, builder: B, with: impl Fn(B, K, String) -> B) -> B {
        self.0
            .iter()
            .fold(builder, |builder, (key, value)| match key.parse() {
                Ok(key) => with(builder, key, value.clone()),
                Err(_) => builder,
            })
    }

    /// # Errors
    /// If it is set and no number.
    fn outage(&self) -> Result<Duration> {
        let Some(value) = self.value(&[OUTAGE_VARIABLE]) else {
            return Ok(DEFAULT_OUTAGE);
        };

        value.parse().map(Duration::from_secs).map_err(|_| {
            Error::Config(format!(
                "{} must be a number of seconds, found {value:?}",
                OUTAGE_VARIABLE.to_ascii_uppercase()
            ))
        })
    }
}

fn client_options(
    environment: &StoreEnvironment,
    allow_http: bool,
    client_use: ClientUse,
) -> Result<ClientOptions> {
    let options = ClientOptions::new()
        .with_allow_http(allow_http)
        .with_connect_timeout(CONNECT_TIMEOUT);

    let options = match client_use {
        ClientUse::Reads => options
            .with_timeout_disabled()
            .with_read_timeout(READ_TIMEOUT),
        ClientUse::Writes => options.with_timeout(WRITE_TIMEOUT),
    };

    let Some(file) = environment.value(&["aws_ca_bundle"]) else {
        return Ok(options);
    };

    let pem = std::fs::read(file).map_err(Error::file("read", file))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| {
        Error::Config(format!(
            "AWS_CA_BUNDLE names {file}, which holds no certificates: {error}. Name a file in PEM format."
        ))
    })?;

    Ok(certificates
        .into_iter()
        .fold(options, ClientOptions::with_root_certificate))
}

fn retry_config() -> RetryConfig {
    RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        backoff: BackoffConfig {
            max_backoff: Duration::from_secs(5),
            ..BackoffConfig::default()
        },
    }
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
                opened.reads.to_string().starts_with(store),
                "{}",
                opened.reads
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

        let (builder, allow_http) = s3_client(&environment);
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

        assert!(allow_http);
    }

    fn s3_client(environment: &[(&str, &str)]) -> (AmazonS3Builder, bool) {
        let root = Url::parse("s3://bucket").unwrap();
        let variables = environment.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let environment = StoreEnvironment::read(variables);
        s3_builder("s3://bucket/x", &root, &environment).unwrap()
    }

    #[test]
    fn a_bucket_is_put_into_the_host_name_where_the_store_wants_it_there() {
        let virtual_hosted = ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true");
        let path_style = ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false");
        let table = [
            ("http://127.0.0.1:7070", None, "http://127.0.0.1:7070"),
            (
                "http://minio:9000",
                Some(virtual_hosted),
                "http://bucket.minio:9000",
            ),
            (
                "https://oss-cn-hangzhou.aliyuncs.com",
                None,
                "https://bucket.oss-cn-hangzhou.aliyuncs.com",
            ),
            (
                "https://bucket.oss-cn-hangzhou.aliyuncs.com/",
                None,
                "https://bucket.oss-cn-hangzhou.aliyuncs.com",
            ),
            (
                "https://cos.ap-guangzhou.myqcloud.com",
                None,
                "https://bucket.cos.ap-guangzhou.myqcloud.com",
            ),
            (
                "https://cos.ap-guangzhou.myqcloud.com",
                Some(path_style),
                "https://cos.ap-guangzhou.myqcloud.com",
            ),
            ("https://notaliyuncs.com", None, "https://notaliyuncs.com"),
        ];

        for (endpoint, style, expected) in table {
            let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
            let mut environment = vec![("AWS_ENDPOINT_URL", endpoint)];
            environment.extend(keys);
            environment.extend(style);

            let (builder, _) = s3_client(&environment);
            let found = builder.get_config_value(&object_store::aws::AmazonS3ConfigKey::Endpoint);
            assert_eq!(found.as_deref(), Some(expected), "{environment:?}");
        }
    }

    #[test]
    fn what_cannot_work_says_what_to_do() {
        let endpoint = [("AWS_ENDPOINT_URL", "http://127.0.0.1:7070")];
        let outage = [("CNCLIP_STORE_OUTAGE_SECONDS", "an hour")];
        let bundle = [("AWS_CA_BUNDLE", "/absent.pem")];
        let address = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:7070"),
            ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
            ("AWS_ACCESS_KEY_ID", "a"),
        ];

        let no_address = [("AWS_ENDPOINT_URL", "minio"), ("AWS_ACCESS_KEY_ID", "a")];
        let table: [Row<'_>; 7] = [
            ("s3://bucket/x", &endpoint, "Set AWS_ACCESS_KEY_ID"),
            ("s3://bucket/x", &address, "name the host"),
            ("s3://bucket/x", &no_address, "Expected https://host"),
            ("s3://bucket/x", &outage, "a number of seconds"),
            ("s3://bucket/x", &bundle, "/absent.pem"),
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
