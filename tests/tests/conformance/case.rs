// SPDX-License-Identifier: Apache-2.0
//! What a case is, and what it can do: its backends, its requests, its lines in the access log.
//!
//! A case's addresses and names are its own: its backends are `127.1.CASE.1` and up, its virtual host is
//! `cCASE-test`. In its configuration `$` stands for `cCASE-`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::client::{self, Connection, Request, Response};
use remora_testkit::upstream::HttpUpstream;
use remora_testkit::upstream::http::Reply;
use remora_testkit::{client as http, wait};
use remora_tests::subject::Subject;

/// One scenario.
#[derive(Debug)]
pub(crate) struct Case {
    /// What holds, as a sentence.
    pub(crate) name: &'static str,
    /// Its configuration; see [`super::bootstrap`].
    pub(crate) config: &'static str,
    /// The scenario.
    pub(crate) run: fn(&Scene) -> anyhow::Result<()>,
    /// The only subject that it is for.
    pub(crate) only: Option<Subject>,
}

/// A case for both subjects.
pub(crate) const fn case(
    name: &'static str,
    config: &'static str,
    run: fn(&Scene) -> anyhow::Result<()>,
) -> Case {
    Case {
        name,
        config,
        run,
        only: None,
    }
}

impl Case {
    /// The same for Remora alone: Envoy does not have this, or has it otherwise.
    pub(crate) const fn of_remora(self) -> Self {
        Self {
            only: Some(Subject::Remora),
            ..self
        }
    }
}

/// What a case plays in.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) subject: Subject,
    pub(crate) number: usize,
    pub(crate) log: PathBuf,
}

impl Scene {
    /// The case's virtual host.
    pub(crate) fn host(&self) -> String {
        format!("c{}-test", self.number)
    }

    /// Where the case's backend number `k` is.
    pub(crate) fn address(&self, k: u8) -> SocketAddr {
        let number = u8::try_from(self.number).expect("cases are fewer than 250");
        SocketAddr::from(([127, 1, number, k], 80))
    }

    /// The value for this subject: Envoy's, or what Remora does on purpose instead.
    pub(crate) fn differs<T>(&self, envoy: T, remora: T) -> T {
        match self.subject {
            Subject::Envoy => envoy,
            Subject::Remora => remora,
        }
    }

    /// Starts backend number `k`; it answers 200 with its number.
    pub(crate) fn backend(&self, k: u8) -> anyhow::Result<HttpUpstream> {
        self.backend_that(k, Reply::status(200, &k.to_string()))
    }

    /// Starts backend number `k` with a script.
    pub(crate) fn backend_that(&self, k: u8, reply: Reply) -> anyhow::Result<HttpUpstream> {
        let address = self.address(k);
        HttpUpstream::start(address, reply).with_context(|| format!("listen on {address}"))
    }

    /// A GET to the case's virtual host.
    pub(crate) fn request(&self, target: &str) -> Request {
        Request::get(&self.host(), target)
    }

    /// Asks once over a connection of its own.
    pub(crate) fn send(&self, request: &Request) -> anyhow::Result<Response> {
        client::send(PROXY, request, LIMIT)
    }

    /// GETs a path of the case's virtual host.
    pub(crate) fn get(&self, target: &str) -> anyhow::Result<Response> {
        self.send(&self.request(target))
    }

    /// Status and body of a GET, as `200 text`.
    pub(crate) fn answer(&self, target: &str) -> anyhow::Result<String> {
        self.answer_to(&self.request(target))
    }

    /// Status and body of the answer to a request, as `200 text`.
    pub(crate) fn answer_to(&self, request: &Request) -> anyhow::Result<String> {
        let answer = self.send(request)?;
        Ok(format!("{} {}", answer.status, answer.text())
            .trim_end()
            .to_owned())
    }

    /// A kept connection to the proxy.
    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(PROXY, LIMIT)
    }

    /// A kept connection to one of the case's own listeners.
    pub(crate) fn connect_to(&self, port: u16) -> anyhow::Result<Connection> {
        Connection::open(SocketAddr::from(([127, 0, 0, 1], port)), LIMIT)
    }

    /// Asks once at one of the case's own listeners.
    pub(crate) fn send_to(&self, port: u16, request: &Request) -> anyhow::Result<Response> {
        http::send(SocketAddr::from(([127, 0, 0, 1], port)), request, LIMIT)
    }

    /// The last line of the access log for this case and path, once there is one.
    pub(crate) fn log_of(&self, path: &str) -> anyhow::Result<LogLine> {
        let head = format!("host={} path={path} ", self.host());
        wait::until(&format!("the log line `{head}`"), wait::PATIENCE, || {
            let text = std::fs::read_to_string(&self.log).context("read the access log")?;
            let line = text.lines().rfind(|line| line.starts_with(&head));
            LogLine::read(line.context("no such line")?)
        })
    }

    /// Asserts code, flags and details in the access log.
    pub(crate) fn expect_log(&self, path: &str, expected: &str) -> anyhow::Result<()> {
        let line = self.log_of(path)?;
        let found = format!(
            "{} {} {}",
            line.field("code"),
            line.field("flags"),
            line.field("details")
        );
        if found != expected {
            bail!("the access log has `{found}` for {path}, expected `{expected}`");
        }
        Ok(())
    }
}

/// A line of the access log, by the names in its format.
#[derive(Debug)]
pub(crate) struct LogLine(BTreeMap<String, String>);

impl LogLine {
    fn read(line: &str) -> anyhow::Result<Self> {
        let pairs = line.split(' ').map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("`{pair}` in `{line}`"))?;
            Ok((key.to_owned(), value.to_owned()))
        });
        Ok(Self(pairs.collect::<anyhow::Result<_>>()?))
    }

    /// A field; empty if the format does not have it.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Where the proxy serves all cases.
pub(crate) const PROXY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10_000);
/// The bound on each connect, read and write.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
