"""The proxies that are compared: one class each, with its configuration for the same service."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.bench import certs
from tools.bench.asking import ask
from tools.bench.content import SERVER_NAME

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "symphony-bench"
ORIGINAL_PACKAGE = "@harperfast/symphony-linux-x64-gnu"
COMMAND_VARIABLE = "SYMPHONY_BENCH_COMMAND"
_IDLE_S = 3600
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True)
class Service:
    """What a proxy has to do: one TLS port for one upstream on a Unix socket.

    With `proxy_header` the upstream expects a PROXY header, in the newest version that the proxy can send.
    """

    directory: Path
    port: int
    upstream: Path
    pair: certs.KeyPair
    passthrough: bool = False
    workers: int = 1
    connections: int = 4096
    proxy_header: bool = False


class Peer:
    """A proxy program. Subclasses say how it is found, configured and started."""

    name = ""
    debian_packages: tuple[str, ...] = ()
    passes_through = True
    start_deadline_s = 20.0

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        return None if shutil.which(self.name) else f"{self.name} is not installed"

    def version(self) -> str:
        """Return the version as the program says it."""
        raise NotImplementedError

    def config(self, service: Service) -> str:
        """Return the text of its configuration file."""
        raise NotImplementedError

    def command(self, config: Path, service: Service) -> list[str]:
        """Return the command that runs it in the foreground."""
        raise NotImplementedError

    def config_name(self) -> str:
        """Return the configuration's file name: some programs go by its ending."""
        return f"{self.name}.conf"

    def probe(self, port: int) -> None:
        """Ask it for what it serves. Raises OSError unless it answers, and rightly."""
        ask(port)


def output_of(command: list[str], pattern: str) -> str:
    """Return what the first group of `pattern` matches in the output of a command, or "unknown"."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1) if found else "unknown"


class Symphony(Peer):
    """This project's proxy, through its public command."""

    name = "symphony"

    def __init__(self) -> None:
        """Take the command named by $SYMPHONY_BENCH_COMMAND, of the same environment, or on the path, in this order."""
        beside = Path(sys.executable).parent / "symphony"
        named = os.environ.get(COMMAND_VARIABLE, "")
        self._command = named or (str(beside) if beside.exists() else shutil.which("symphony") or "")

    @property
    def executable(self) -> str:
        """The command's path."""
        return self._command

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        return None if self._command else "the symphony command is not installed in this environment"

    def version(self) -> str:
        """Return the version as the program says it."""
        return output_of([self._command, "version"], r"(\d+\.\d+\S*)")

    def config_name(self) -> str:
        """TOML."""
        return "symphony.toml"

    def listener_lines(self, service: Service) -> str:
        """Return what else the listener is to have; for variants."""
        return ""

    def config(self, service: Service) -> str:
        """Defaults, but for the idle time: the other programs' is made as long."""
        certificate = f"""
cert = {{ cert_chain_file = {json.dumps(str(service.pair.chain))},
  private_key_file = {json.dumps(str(service.pair.key))} }}""".replace("\n  ", " ")
        return f"""workers = {service.workers}
drain_timeout_ms = 200

[[listeners]]
host = "127.0.0.1"
port = {service.port}
idle_timeout_ms = {_IDLE_S * 1000}
{self.listener_lines(service)}
[[routes]]
sni = "{SERVER_NAME}"
terminate_tls = {str(not service.passthrough).lower()}
{'source_address_header = "proxy_protocol_v2"' if service.proxy_header else ""}
upstreams = [{{ kind = "uds", path = {json.dumps(str(service.upstream))} }}]{"" if service.passthrough else certificate}
"""

    def command(self, config: Path, service: Service) -> list[str]:
        """Run in the foreground, with a runtime directory of its own."""
        runtime = service.directory / "run"
        return [self._command, "run", "-c", str(config), "--runtime-dir", str(runtime)]


class Nginx(Peer):
    """nginx's stream module."""

    name = "nginx"
    debian_packages = ("nginx", "libnginx-mod-stream")

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        if reason := super().missing():
            return reason
        if _STREAM_MODULE.exists() or output_of(["nginx", "-V"], r"(--with-stream)(?!\S)") != "unknown":
            return None
        return "nginx is here without its stream module (Debian: libnginx-mod-stream)"

    def version(self) -> str:
        """Return the version as the program says it."""
        return output_of(["nginx", "-v"], r"nginx/(\S+)")

    def config(self, service: Service) -> str:
        """A stream server; for passthrough it reads the name from the ClientHello, as the others do.

        It sends PROXY headers of version 1 only.
        """
        directory = service.directory
        load = f"load_module {_STREAM_MODULE};" if _STREAM_MODULE.exists() else ""
        tls = (
            "ssl_preread on;\n        proxy_pass $upstream;"
            if service.passthrough
            else f"""ssl_certificate {service.pair.chain};
        ssl_certificate_key {service.pair.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_pass unix:{service.upstream};"""
        )
        names = (
            f'map $ssl_preread_server_name $upstream {{ {SERVER_NAME} "unix:{service.upstream}"; }}'
            if service.passthrough
            else ""
        )
        listen = f"listen 127.0.0.1:{service.port}{'' if service.passthrough else ' ssl'}"
        reuseport = " reuseport" if service.workers > 1 else ""
        return f"""{load}
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes {service.workers};
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log warn;
events {{ worker_connections {2 * service.connections + 64}; }}
stream {{
    {names}
    server {{
        {listen}{reuseport} backlog=4096;
        proxy_timeout {_IDLE_S}s;
        proxy_protocol {"on" if service.proxy_header else "off"};
        {tls}
    }}
}}
"""

    def command(self, config: Path, service: Service) -> list[str]:
        """Run in the foreground (`daemon off` in the configuration)."""
        return ["nginx", "-c", str(config), "-e", str(service.directory / "nginx-error.log")]


class Haproxy(Peer):
    """HAProxy in TCP mode."""

    name = "haproxy"
    debian_packages = ("haproxy",)

    def version(self) -> str:
        """Return the version as the program says it."""
        return output_of(["haproxy", "-v"], r"version (\S+)")

    def config(self, service: Service) -> str:
        """One thread per worker; for passthrough the name is read from the ClientHello."""
        if service.passthrough:
            bind = f"""bind 127.0.0.1:{service.port}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend service if {{ req.ssl_sni -i {SERVER_NAME} }}"""
        else:
            bind = f"bind 127.0.0.1:{service.port} ssl crt {service.pair.both}\n    default_backend service"
        return f"""global
    nbthread {service.workers}
    maxconn {service.connections}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    tune.ssl.default-dh-param 2048
defaults
    mode tcp
    timeout connect 5s
    timeout client {_IDLE_S}s
    timeout server {_IDLE_S}s
frontend public
    {bind}
backend service
    server upstream unix@{service.upstream}{" send-proxy-v2" if service.proxy_header else ""}
"""

    def command(self, config: Path, service: Service) -> list[str]:
        """Run in the foreground."""
        return ["haproxy", "-db", "-f", str(config)]


class Hitch(Peer):
    """hitch, Varnish's TLS proxy: terminates only."""

    name = "hitch"
    debian_packages = ("hitch",)
    passes_through = False

    def version(self) -> str:
        """Return the version as the program says it."""
        return output_of(["hitch", "--version"], r"hitch (\S+)")

    def config(self, service: Service) -> str:
        """One backend, no OCSP, nothing logged but errors. As root it refuses to run without a user named."""
        return f"""frontend = {{
  host = "127.0.0.1"
  port = "{service.port}"
}}
backend = "{service.upstream}"
pem-file = "{service.pair.both}"
workers = {service.workers}
backlog = 4096
tls-protos = TLSv1.2 TLSv1.3
daemon = off
quiet = on
syslog = off
ocsp-verify-staple = off
write-proxy-v2 = {"on" if service.proxy_header else "off"}
{'user = "root"' if os.geteuid() == 0 else ""}
"""

    def command(self, config: Path, service: Service) -> list[str]:
        """Run in the foreground."""
        return ["hitch", f"--config={config}"]


class Stunnel(Peer):
    """stunnel: a thread per connection, terminates only."""

    name = "stunnel"
    debian_packages = ("stunnel4",)
    passes_through = False

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        return None if shutil.which("stunnel4") or shutil.which("stunnel") else "stunnel is not installed"

    @property
    def _program(self) -> str:
        return shutil.which("stunnel4") or shutil.which("stunnel") or "stunnel"

    def version(self) -> str:
        """Return the version as the program says it."""
        return output_of([self._program, "-version"], r"stunnel (\S+) on")

    def config(self, service: Service) -> str:
        """One service, errors only. It sends PROXY headers of version 1 only."""
        return f"""foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
[service]
accept = 127.0.0.1:{service.port}
connect = {service.upstream}
cert = {service.pair.both}
sslVersionMin = TLSv1.2
TIMEOUTidle = {_IDLE_S}
{"protocol = proxy" if service.proxy_header else ""}
"""

    def command(self, config: Path, service: Service) -> list[str]:
        """Run in the foreground."""
        return [self._program, str(config)]


class Original(Peer):
    """The Rust proxy of the same name, as the native module that its authors publish, inside node."""

    name = "original"

    def _module(self) -> Path:
        return CACHE / "node_modules" / ORIGINAL_PACKAGE

    def missing(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        if shutil.which("node") is None:
            return "node is not installed"
        if platform.machine() != "x86_64":
            return f"{ORIGINAL_PACKAGE} is for x86-64"
        return None if self._module().exists() else f"{ORIGINAL_PACKAGE} is not installed (--install-peers)"

    def version(self) -> str:
        """Return the package's version."""
        return str(json.loads((self._module() / "package.json").read_text())["version"])

    def config_name(self) -> str:
        """A script that starts it."""
        return "original.cjs"

    def config(self, service: Service) -> str:
        """The native module's own types. Its default is to send a PROXY header, which the others do not."""
        route: dict[str, object] = {
            "sni": SERVER_NAME,
            "upstreams": [{"kind": "uds", "path": str(service.upstream)}],
            "terminateTls": not service.passthrough,
            "sourceAddressHeader": "proxyProtocolV2" if service.proxy_header else "none",
        }
        if not service.passthrough:
            chain, key = service.pair.chain.read_text(), service.pair.key.read_text()
            route["cert"] = {"certChain": chain, "privateKey": key}
        listener = {"host": "127.0.0.1", "port": service.port, "idleTimeoutMs": _IDLE_S * 1000}
        config = {"listeners": [listener], "routes": [route], "workerThreads": service.workers}
        return f"""const {{ SymphonyProxyWrap }} = require({json.dumps(str(self._module()))});
const proxy = new SymphonyProxyWrap({json.dumps(config)}, (error, event) => {{
  if (error) console.error(error); else if (event && event.type === 'error') console.error(event.message);
}});
proxy.start().catch((error) => {{ console.error(error); process.exit(1); }});
process.on('SIGTERM', () => process.exit(0));
setInterval(() => {{}}, 1 << 30);
"""

    def command(self, config: Path, service: Service) -> list[str]:
        """Run in node."""
        return ["node", str(config)]


def all_peers() -> list[Peer]:
    """Return every proxy that this program knows, Symphony first."""
    return [Symphony(), Nginx(), Haproxy(), Hitch(), Stunnel(), Original()]


def install(peers: list[Peer]) -> list[str]:
    """Install what is missing (Debian packages as root, the original from npm); return what failed, one line each."""
    failed = []
    packages = [p for peer in peers if peer.missing() for p in peer.debian_packages]
    if packages:
        if os.geteuid() != 0:
            failed.append(f"Debian packages need root: apt-get install {' '.join(packages)}")
        elif shutil.which("apt-get") is None:
            failed.append(f"no apt-get on this machine to install {' '.join(packages)}")
        else:
            command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
            if subprocess.run(command, timeout=600, check=False).returncode:  # noqa: S603
                failed.append(f"{' '.join(command)} failed")
    if any(isinstance(peer, Original) and peer.missing() for peer in peers):
        if shutil.which("npm") is None or shutil.which("node") is None:
            failed.append("node and npm are needed for the original")
        else:
            CACHE.mkdir(parents=True, exist_ok=True)
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), ORIGINAL_PACKAGE]
            if subprocess.run(command, timeout=600, check=False).returncode:  # noqa: S603
                failed.append(f"{' '.join(command)} failed")
    return failed
