#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cost of remora-proxy beside other proxies, on this machine, in one interleaved run.

Each proxy forwards HTTP/1.1 from a port of loopback to one nginx that answers 1 KiB from memory.
The proxy is pinned to one core and has one worker; load generator and nginx share the other core.
What counts is CPU per request (user and system time of the proxy, from /proc), since it does not
depend on how fast the generator is, and ratios within one run, since machines differ and are noisy.

    bench/run.py [--rounds 3] [--seconds 4] [--markdown FILE]

Needs: nginx, haproxy, wrk (apt), a release build of remora-proxy, and optionally
Envoy ($REMORA_ENVOY). A subject whose program is missing is left out and named.
"""
import argparse, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time

HZ = os.sysconf("SC_CLK_TCK")
BACKEND, ROOT = 18900, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BOOTSTRAP = """
node: {{id: bench, cluster: bench}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              include_request_attempt_count: true
              routes:
              - match: {{prefix: /other, headers: [{{name: user, string_match: {{exact: rui}}}}]}}
                route: {{cluster: app}}
              - match: {{prefix: /}}
                route: {{cluster: app, retry_policy: {{retry_on: "5xx,reset,connect-failure", num_retries: 2}}}}
  clusters:
  - name: app
    type: STATIC
    lb_policy: LEAST_REQUEST
    outlier_detection: {{consecutive_5xx: 5}}
    load_assignment: {{cluster_name: app, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}}}]}}]}}
"""
NGINX_BACKEND = """
daemon off; worker_processes 1; pid {dir}/backend.pid; error_log {dir}/backend.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; server {{ listen 127.0.0.1:{port} reuseport;
  location / {{ default_type text/plain; return 200 "{body}"; }} }} }}
"""
NGINX_PROXY = """
daemon off; worker_processes 1; pid {dir}/proxy.pid; error_log {dir}/proxy.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000;
  upstream app {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; proxy_http_version 1.1;
  proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id; }} }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  option http-keep-alive
  http-reuse always
  retries 2
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend web
  bind 127.0.0.1:{port}
  unique-id-format %{{+X}}o%ci%cp%Ts%rt
  unique-id-header X-Request-Id
  default_backend app
backend app
  server one 127.0.0.1:{backend}
"""


def subjects(folder):
    """Name, command and port of every subject whose program is here."""
    remora = os.environ.get("REMORA_PROXY", f"{ROOT}/target/release/remora-proxy")
    envoy = os.environ.get("REMORA_ENVOY") or shutil.which("envoy")
    found, port = [], 18910
    def write(name, text):
        path = f"{folder}/{name}"
        with open(path, "w") as file:
            file.write(text)
        return path
    def add(name, program, command):
        nonlocal port
        if not program or not os.path.exists(program):
            print(f"left out: {name} ({program or 'not found'})", file=sys.stderr)
            return
        found.append((name, command(port), port))
        port += 1
    def boot(p):
        return write(f"boot{p}.yaml", BOOTSTRAP.format(port=p, admin=p + 100, backend=BACKEND))
    add("remora", remora, lambda p: [remora, "run", "--bootstrap", boot(p), "--workers", "1",
        "--no-dns", "--readiness-port", str(p + 200), "--prometheus-port", str(p + 300),
        "--state-dir", f"{folder}/state", "--log-level", "warn"])
    add("envoy", envoy, lambda p: [envoy, "-c", boot(p), "--concurrency", "1", "-l", "error",
        "--disable-hot-restart"])
    add("haproxy", shutil.which("haproxy"), lambda p: [shutil.which("haproxy"), "-db", "-f",
        write("haproxy.cfg", HAPROXY.format(port=p, backend=BACKEND))])
    add("nginx", shutil.which("nginx"), lambda p: [shutil.which("nginx"), "-c",
        write("proxy.conf", NGINX_PROXY.format(dir=folder, port=p, backend=BACKEND))])
    return found


def family(pid):
    """A process and its children."""
    pids, queue = [], [pid]
    while queue:
        one = queue.pop()
        pids.append(one)
        for task in os.listdir(f"/proc/{one}/task"):
            with open(f"/proc/{one}/task/{task}/children") as file:
                queue += [int(child) for child in file.read().split()]
    return pids


def cpu(pid):
    """User and system seconds of a family."""
    total = [0, 0]
    for one in family(pid):
        with open(f"/proc/{one}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        total[0] += int(fields[11])
        total[1] += int(fields[12])
    return [ticks / HZ for ticks in total]


def memory(pid):
    """Proportional set size of a family, MiB."""
    total = 0
    for one in family(pid):
        with open(f"/proc/{one}/smaps_rollup") as file:
            total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M).group(1))
    return total / 1024


def load(row, port, seconds):
    """Requests done and p99 in ms."""
    url = f"http://127.0.0.1:{port}/x"
    closing = ["-H", "Connection: close"] if row == "new connection" else []
    out = run(["wrk", "-t1", "-c32", f"-d{seconds}s", "--latency", *closing, url])
    count = int(re.search(r"(\d+) requests in", out).group(1))
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()
    bad = re.search(r"Non-2xx.*: (\d+)", out)
    assert not bad, f"{bad.group(1)} bad answers"
    return count, float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def run(command):
    pinned = ["taskset", "-c", "1"] + command
    return subprocess.run(pinned, capture_output=True, text=True, timeout=120, check=True).stdout


def start(command, core):
    return subprocess.Popen(["taskset", "-c", str(core)] + command, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--markdown", help="write the table to this file as well")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="remora-bench-")
    running, results = [], {}
    try:
        backend = NGINX_BACKEND.format(dir=folder, port=BACKEND, body="x" * 1024)
        with open(f"{folder}/backend.conf", "w") as file:
            file.write(backend)
        running.append(start(["nginx", "-c", f"{folder}/backend.conf"], 1))
        procs = []
        for name, command, port in subjects(folder):
            process = start(command, 0)
            running.append(process)
            procs.append((name, process.pid, port))
        time.sleep(3)
        idle = {name: memory(pid) for name, pid, _ in procs}
        for row in ["keep-alive", "new connection"]:
            for number in range(args.rounds):
                for name, pid, port in procs:
                    before = cpu(pid)
                    count, p99 = load(row, port, args.seconds)
                    user, system = [b - a for a, b in zip(before, cpu(pid))]
                    results.setdefault((row, name), []).append(
                        (user / count * 1e6, system / count * 1e6, count / args.seconds, p99))
                    print(f"{row} round {number + 1} {name}: "
                          f"{(user + system) / count * 1e6:.1f} us/request", file=sys.stderr)
        loaded = {name: memory(pid) for name, pid, _ in procs}
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    table = render(results, idle, loaded)
    print(table)
    if args.markdown:
        with open(args.markdown, "w") as file:
            file.write(table)


def render(results, idle, loaded):
    """A Markdown table; ratios are to HAProxy's median where it ran."""
    lines = ["| row | subject | user us | system us | CPU us (spread) | to haproxy | requests/s | p99 ms |",
             "|---|---|---|---|---|---|---|---|"]
    for (row, name), samples in results.items():
        totals = [user + system for user, system, _, _ in samples]
        reference = results.get((row, "haproxy"))
        ratio = "-"
        if reference:
            ratio = f"{statistics.median(totals) / statistics.median(u + s for u, s, _, _ in reference):.2f}"
        user, system, rate, p99 = [statistics.median(column) for column in zip(*samples)]
        lines.append(f"| {row} | {name} | {user:.1f} | {system:.1f} | {statistics.median(totals):.1f} "
                     f"({min(totals):.1f} to {max(totals):.1f}) | {ratio} | {rate:.0f} | {p99:.2f} |")
    lines += ["", "| subject | PSS idle MiB | PSS after the load MiB |", "|---|---|---|"]
    lines += [f"| {name} | {idle[name]:.1f} | {loaded[name]:.1f} |" for name in idle]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
