"""Writes OCI images as tar files without a container engine. Equal files give equal bytes."""

import hashlib
import io
import json
import tarfile
from pathlib import PurePosixPath

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Image:
    """A linux/amd64 image of one layer."""

    def __init__(self, entrypoint, user="0:0", environment=()):
        self.config = {"Entrypoint": entrypoint, "User": user, "Env": list(environment)}
        self.files = {}

    def add_file(self, path, content, mode=0o644):
        """Adds a file and returns the image."""
        self.files[path] = (content, mode)
        return self

    def digest(self):
        """The hexadecimal SHA-256 digest of the manifest, which identifies the image's content."""
        manifest, _ = self.blobs()
        return manifest.removeprefix("sha256:")

    def write(self, tar, name):
        """Writes the image under its full name, ``repository:tag``."""
        manifest, blobs = self.blobs()
        index = {"schemaVersion": 2, "manifests": [{
            **descriptor(MANIFEST, blobs[manifest]),
            "platform": {"architecture": "amd64", "os": "linux"},
            # `ctr images import` takes the name from containerd's annotation, other tools from OCI's.
            "annotations": {"io.containerd.image.name": name,
                            "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}}]}
        files = {"oci-layout": (b'{"imageLayoutVersion":"1.0.0"}', 0o644),
                 "index.json": (json.dumps(index).encode(), 0o644)}
        files |= {f"blobs/{digest.replace(':', '/')}": (blob, 0o644) for digest, blob in blobs.items()}
        tar.write_bytes(archive(files))

    def blobs(self):
        """The manifest's digest, and all blobs (layer, configuration, manifest) by digest."""
        layer = archive(self.files)
        # The layer is not compressed, so its diff ID is its digest.
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": self.config,
                             "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}).encode()
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config),
                               "layers": [descriptor(LAYER, layer)]}).encode()
        return digest_of(manifest), {digest_of(blob): blob for blob in (layer, config, manifest)}


def digest_of(blob):
    """A digest in OCI's notation."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def descriptor(media_type, blob):
    """An OCI content descriptor."""
    return {"mediaType": media_type, "digest": digest_of(blob), "size": len(blob)}


def archive(files):
    """A tar of the files and their parent folders, by path.

    Entries are sorted, owned by root and dated 1970 (the defaults of TarInfo), so that equal files give equal bytes.
    """
    buffer = io.BytesIO()
    paths = {path.strip("/"): entry for path, entry in files.items()}
    folders = {str(folder): None for path in paths for folder in PurePosixPath(path).parents if str(folder) != "."}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, entry in sorted((folders | paths).items()):
            member = tarfile.TarInfo(path)
            if entry is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                content, member.mode = entry
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
