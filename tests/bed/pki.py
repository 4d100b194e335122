"""Makes the bed's certificate authority, certificates and kubeconfigs with openssl; keeps those that are there."""

import base64
import json

from .processes import run

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
DAYS = "3650"


def make(bed):
    """Everything that signs or proves who is who, under ``pki/``."""
    pki = bed.folder("pki")
    authority(pki)
    service_account_key(pki)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    server(pki, "apiserver", "/CN=kube-apiserver", names, [bed.api_address, bed.address])
    server(pki, "kubelet", f"/CN={bed.node}", [bed.node], [bed.address])
    for name, subject in (
        ("admin", "/O=system:masters/CN=admin"),
        ("controller-manager", "/CN=system:kube-controller-manager"),
        ("scheduler", "/CN=system:kube-scheduler"),
        ("node", f"/O=system:nodes/CN=system:node:{bed.node}"),
    ):
        leaf(pki, name, subject, "clientAuth")
        kubeconfig(bed, pki, name)
    return pki


def authority(pki):
    if not (pki / "ca.crt").exists():
        run("openssl", "req", "-x509", *KEY, "-keyout", pki / "ca.key", "-out", pki / "ca.crt", "-days", DAYS,
            "-subj", "/CN=bed", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def service_account_key(pki):
    if not (pki / "sa.pub").exists():
        run("openssl", "genrsa", "-out", pki / "sa.key", "2048")
        run("openssl", "rsa", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")


def server(pki, name, subject, hosts, addresses):
    alternatives = [f"DNS:{host}" for host in hosts] + [f"IP:{address}" for address in addresses]
    leaf(pki, name, subject, "serverAuth", f"subjectAltName={','.join(alternatives)}")


def leaf(pki, name, subject, usage, *extensions):
    certificate = pki / f"{name}.crt"
    if certificate.exists():
        return
    request = run("openssl", "req", "-new", *KEY, "-keyout", pki / f"{name}.key", "-subj", subject)
    wanted = pki / f"{name}.extensions"
    wanted.write_text("\n".join(["keyUsage=critical,digitalSignature", f"extendedKeyUsage={usage}", *extensions]))
    run("openssl", "x509", "-req", "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial",
        "-days", DAYS, "-extfile", wanted, "-out", certificate, input=request)


def kubeconfig(bed, pki, name):
    """JSON is YAML too, so no YAML library is needed to write one."""
    def data(file):
        return base64.b64encode((pki / file).read_bytes()).decode()

    (pki / f"{name}.kubeconfig").write_text(json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bed",
        "clusters": [{"name": "bed", "cluster": {
            "server": f"https://{bed.api_address}", "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": name}}],
    }, indent=1))
