"""Only clients of this machine may pass: python tools/examples/gate.py tcp://127.0.0.1:3000 8443 cert.pem key.pem"""

import asyncio
import sys

from symphony import Certificate, Config, Listener, Route, Suspended, SymphonyProxy, TcpUpstream


async def main(service: str, port: str, chain: str, key: str) -> None:
    host, _, service_port = service.removeprefix("tcp://").rpartition(":")
    certificate = Certificate(cert_chain_file=chain, private_key_file=key)
    gated = Route(sni="", suspended=True, upstreams=(TcpUpstream(host=host, port=int(service_port)),))
    config = Config(listeners=(Listener(port=int(port), default_cert=certificate),), routes=(gated,))

    async with SymphonyProxy(config) as proxy:

        async def decide(connection: Suspended) -> None:
            allowed = connection.peer_ip.startswith("127.")
            answer = "welcome" if allowed else "no"
            print(f"{connection.peer_ip} asks for {connection.sni!r}: {answer}", flush=True)
            await proxy.resolve_connection(connection.id, {} if allowed else None)

        proxy.on("suspended", decide)
        await proxy.wait_closed()


asyncio.run(main(*sys.argv[1:]))
