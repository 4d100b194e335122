"""Creates the testbed's certificate authority, certificates and kubeconfigs with openssl; existing ones are kept."""

import base64
import json

from cnclip_build.commands import run

KEY_OPTIONS = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
VALIDITY_DAYS = "3650"


def create(testbed):
    """Creates all keys, certificates and kubeconfigs; returns their folder."""
    pki = testbed.folder("pki")
    create_authority(pki)
    create_service_account_key(pki)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    create_server_certificate(pki, "apiserver", "/CN=kube-apiserver", names, [testbed.api_address, testbed.address])
    create_server_certificate(pki, "kubelet", f"/CN={testbed.node}", [testbed.node], [testbed.address])
    # Subjects are what Kubernetes' built-in RBAC roles and the Node authorizer are bound to.
    for name, subject in (
        ("admin", "/O=system:masters/CN=admin"),
        ("controller-manager", "/CN=system:kube-controller-manager"),
        ("scheduler", "/CN=system:kube-scheduler"),
        ("node", f"/O=system:nodes/CN=system:node:{testbed.node}"),
    ):
        create_certificate(pki, name, subject, "clientAuth")
        write_kubeconfig(testbed, pki, name)
    return pki


def create_authority(pki):
    """Creates the self-signed certificate authority."""
    if not (pki / "ca.crt").exists():
        run("openssl", "req", "-x509", *KEY_OPTIONS, "-keyout", pki / "ca.key", "-out", pki / "ca.crt",
            "-days", VALIDITY_DAYS, "-subj", "/CN=testbed", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def create_service_account_key(pki):
    """Creates the key pair that signs service account tokens."""
    if not (pki / "sa.pub").exists():
        run("openssl", "genrsa", "-out", pki / "sa.key", "2048")
        run("openssl", "rsa", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")


def create_server_certificate(pki, name, subject, hosts, addresses):
    """Creates the certificate of a server that is reached by these host names and IP addresses."""
    alternatives = [f"DNS:{host}" for host in hosts] + [f"IP:{address}" for address in addresses]
    create_certificate(pki, name, subject, "serverAuth", f"subjectAltName={','.join(alternatives)}")


def create_certificate(pki, name, subject, usage, *extensions):
    """Creates a key and a certificate signed by the authority."""
    certificate = pki / f"{name}.crt"
    if certificate.exists():
        return
    request = run("openssl", "req", "-new", *KEY_OPTIONS, "-keyout", pki / f"{name}.key", "-subj", subject)
    extension_file = pki / f"{name}.extensions"
    extension_file.write_text("\n".join(["keyUsage=critical,digitalSignature", f"extendedKeyUsage={usage}",
                                         *extensions]))
    run("openssl", "x509", "-req", "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial",
        "-days", VALIDITY_DAYS, "-extfile", extension_file, "-out", certificate, input=request)


def write_kubeconfig(testbed, pki, name):
    """Writes a kubeconfig as JSON, which is valid YAML, so that no YAML library is needed."""
    def encoded(file):
        return base64.b64encode((pki / file).read_bytes()).decode()

    (pki / f"{name}.kubeconfig").write_text(json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {
            "server": f"https://{testbed.api_address}", "certificate-authority-data": encoded("ca.crt")}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encoded(f"{name}.crt"), "client-key-data": encoded(f"{name}.key")}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": name}}],
    }, indent=1))
