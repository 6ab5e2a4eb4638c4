"""Start SeaweedFS with one way in: its S3 port, which asks for keys.

Its other parts (master, volume server, filer, admin) listen on ports of their own, and by default answer everybody.
Here they speak only TLS, and only with peers that present their own certificate, whose key nobody else has.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVERS = ("s3", "master", "volume", "filer", "admin")
PORTS = 2 * len(SERVERS)
"""Each server listens on two: for HTTP and for gRPC."""
CERTIFICATE, KEY = "certificate.pem", "key.pem"


def prepare(folder: Path) -> None:
    """Make the certificate (once) and security.toml, which SeaweedFS reads from the folder where it is started."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate, key = folder / CERTIFICATE, folder / KEY
    if not certificate.exists():
        _make_certificate(certificate, key)
    pair = f'cert = "{certificate}"\nkey = "{key}"\n'
    both = f'{pair}ca = "{certificate}"\n'
    sections = [f'[grpc]\nca = "{certificate}"\n']
    sections += [f"[grpc.{name}]\n{pair}" for name in (*SERVERS, "worker", "client")]
    sections += [f"[https.{name}]\n{both}" for name in SERVERS if name != "s3"]
    sections.append(f"[https.client]\nenabled = true\n{both}")
    (folder / "security.toml").write_text("".join(sections))


def command(weed: str, folder: Path, buckets: Sequence[str], ports: Sequence[int]) -> list[str]:
    """Return the command that starts it, in that folder, with the S3 keys in the environment (AWS_ACCESS_KEY_ID, ...).

    Args:
        weed: path of the program.
        folder: the folder given to `prepare`; also holds its data.
        ports: PORTS port numbers, the first for S3.
    """
    names = [f"-{name}.port{suffix}" for name in SERVERS for suffix in ("", ".grpc")]
    listens = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    sockets = [f"-{name}.localSocket={folder / name}.sock" for name in ("s3", "filer")]  # by default in /tmp
    return [
        *(weed, "mini", f"-dir={folder}", f"-bucket={','.join(buckets)}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(*listens, *sockets, "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-s3.autoCreateBucket=false", "-master.telemetry=false"),
    ]


def _make_certificate(certificate: Path, key: Path) -> None:
    """Make a self-signed certificate: holding its key makes a process part of this SeaweedFS."""
    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "respect")])
    builder = x509.CertificateBuilder(name, name, made.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2000, 1, 1)).not_valid_after(datetime(9999, 12, 31))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    private = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key.touch(0o600)  # before it contains a secret
    key.write_bytes(private)
    certificate.write_bytes(builder.sign(made, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
