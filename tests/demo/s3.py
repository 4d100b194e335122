"""Reads one object from an S3 store, signed as AWS asks (Signature Version 4); never writes."""

import datetime
import hashlib
import hmac
import urllib.error
import urllib.parse
import urllib.request

from bed.steps import Failure

NOTHING = hashlib.sha256(b"").hexdigest()


def read(s3, uri):
    """The bytes of ``s3://bucket/key``."""
    path = urllib.parse.quote(f"/{uri.removeprefix('s3://')}")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    host = urllib.parse.urlsplit(s3["endpoint"]).netloc
    headers = {"host": host, "x-amz-content-sha256": NOTHING, "x-amz-date": now}
    request = urllib.request.Request(s3["endpoint"].rstrip("/") + path, headers={
        **headers, "authorization": authorization(s3, path, headers, now)})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        raise Failure(f"{uri} could not be read: {error.code} {error.reason}") from error


def authorization(s3, path, headers, now):
    """The header that proves who asks for exactly this."""
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"GET\n{path}\n\n{lines}\n{names}\n{NOTHING}"
    scope = f"{now[:8]}/{s3['region']}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{s3['secretAccessKey']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={s3['accessKeyId']}/{scope}, SignedHeaders={names}, Signature={signature}"
