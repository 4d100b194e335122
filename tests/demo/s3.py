"""Reads an object from an S3 store, signed with AWS Signature Version 4."""

import datetime
import hashlib
import hmac
import urllib.error
import urllib.parse
import urllib.request

from cnclip_build.progress import Failure

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
"""The digest of a GET request's body, which is part of the signature."""


def read(s3, uri):
    """The content of ``s3://bucket/key``."""
    path = urllib.parse.quote(f"/{uri.removeprefix('s3://')}")
    timestamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    host = urllib.parse.urlsplit(s3["endpoint"]).netloc
    headers = {"host": host, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": timestamp}
    request = urllib.request.Request(s3["endpoint"].rstrip("/") + path, headers={
        **headers, "authorization": authorization(s3, path, headers, timestamp)})
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with without_proxy.open(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        raise Failure(f"cannot read {uri}: {error.code} {error.reason}") from error


def authorization(s3, path, headers, timestamp):
    """The Authorization header of a GET request with these headers, which must be sorted by name."""
    signed_headers = ";".join(headers)
    header_lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical_request = f"GET\n{path}\n\n{header_lines}\n{signed_headers}\n{EMPTY_SHA256}"
    scope = f"{timestamp[:8]}/{s3['region']}/s3/aws4_request"
    request_digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    string_to_sign = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{request_digest}"
    # The signing key is derived from the secret by one HMAC for each part of the scope.
    key = f"AWS4{s3['secretAccessKey']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, string_to_sign.encode(), "sha256").hex()
    return (f"AWS4-HMAC-SHA256 Credential={s3['accessKeyId']}/{scope}, SignedHeaders={signed_headers}, "
            f"Signature={signature}")
