"""pull over HTTPS: certificates are verified, those of SSL_CERT_FILE are believed, nothing leads to http, proxies are asked.

  pull_https.py TOP PROGRAM

The key in tests/fixtures/tls is for this test alone: it names 127.0.0.1 and nobody trusts it.
"""

import hashlib
import http.server
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading

TOP, PROGRAM = sys.argv[1:]
CERTIFICATE, KEY = (f"{TOP}/tests/fixtures/tls/{n}.pem" for n in ("certificate", "key"))
COMMIT, CONTENT = "c" * 40, b"content"
asked, plain_asked, proxied = [], [], []


class Hub(http.server.BaseHTTPRequestHandler):
    def reply(self, status, content=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        asked.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/api/"):
            files = [{"rfilename": name, "size": len(CONTENT), "blobId": hashlib.sha1(b"blob 7\0" + CONTENT).hexdigest()}
                     for name in ("here", "elsewhere")]
            self.reply(200, json.dumps({"sha": COMMIT, "siblings": files}).encode())
        elif self.path.endswith("elsewhere"):
            self.reply(302, headers=[("Location", plain_url + self.path)])
        else:
            self.reply(200, CONTENT)

    def log_message(self, *_):
        pass


class Plain(Hub):
    def do_GET(self):
        plain_asked.append(self.path)
        self.reply(200, CONTENT)

    def do_CONNECT(self):
        proxied.append(self.path)
        self.reply(502)


def serve(handler, secure):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # a client that hangs up is what is tested
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


port, plain_port = serve(Hub, True), serve(Plain, False)
plain_url = f"http://127.0.0.1:{plain_port}"
failures = []


def check(what, code, says, name="org/name:here", **variables):
    with tempfile.TemporaryDirectory() as home:
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "SSL_", "CURL_")) and "proxy" not in n.lower()}
        environment |= {"HF_HOME": home, "HF_ENDPOINT": f"https://127.0.0.1:{port}", "HF_TOKEN": "hf_secret"} | variables
        done = subprocess.run([PROGRAM, "pull", name], env=environment, capture_output=True, text=True, timeout=60)
    good = done.returncode == code and says in done.stdout + done.stderr
    print(f"{what}: {'ok' if good else f'FAILED, exit code {done.returncode}: {done.stderr}'}")
    if not good:
        failures.append(what)


def expect(what, good):
    print(f"{what}: {'ok' if good else 'FAILED'}")
    if not good:
        failures.append(what)


check("a certificate that nobody vouches for", 7, "certificate")
expect("nothing was asked of it", not asked)
check("SSL_CERT_FILE", 0, "1 file", SSL_CERT_FILE=CERTIFICATE)
check("CURL_CA_BUNDLE", 0, "1 file", CURL_CA_BUNDLE=CERTIFICATE)
expect("the token was told", asked and all(token == "Bearer hf_secret" for _, token in asked))
check("a certificate for another name", 7, "certificate", SSL_CERT_FILE=CERTIFICATE, HF_ENDPOINT=f"https://localhost:{port}")
check("from https to http", 4, "redirects from https to http", name="org/name:elsewhere", SSL_CERT_FILE=CERTIFICATE)
expect("nothing was asked over http", not plain_asked)
check("a proxy that refuses", 7, "127.0.0.1", SSL_CERT_FILE=CERTIFICATE, https_proxy=plain_url)
expect("the proxy was asked", proxied and set(proxied) == {f"127.0.0.1:{port}"})
check("no_proxy", 0, "1 file", SSL_CERT_FILE=CERTIFICATE, https_proxy=plain_url, no_proxy="127.0.0.1")
sys.exit(1 if failures else 0)
