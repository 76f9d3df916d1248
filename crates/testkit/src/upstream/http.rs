// SPDX-License-Identifier: Apache-2.0
//! An HTTP/1.1 server that records what it is asked and answers as it is told.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Acceptor;
use crate::wait;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The request line.
    pub line: String,
    /// Header lines in order, case kept.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its end; a peer that closes earlier is not answered.
    pub is_complete: bool,
}

impl Recorded {
    /// The first value of a header, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.iter();
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answer, after a while.
    Answer {
        /// The status code.
        status: u16,
        /// Header lines beside `Content-Length`.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
        /// How long to wait before answering.
        delay: Duration,
    },
    /// Answer 200 with the request's own head and body as the body.
    Echo,
    /// Write these bytes as they are, then close.
    Raw(Vec<u8>),
    /// Write these bytes as they are, and serve on.
    Bytes(Vec<u8>),
    /// Answer 101 to the protocol that was asked for, then return whatever comes.
    Upgrade,
    /// Close with a reset.
    Reset,
    /// Close without a word.
    Close,
    /// Promise more body than is sent, then close.
    CloseInBody,
    /// Say nothing and keep the connection until the peer closes it.
    Hang,
}

impl Reply {
    /// An immediate answer.
    pub fn status(status: u16, body: &str) -> Self {
        Self::delayed(status, body, Duration::ZERO)
    }

    /// An answer after a while.
    pub fn delayed(status: u16, body: &str, delay: Duration) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            delay,
        }
    }
}

/// A scripted HTTP server.
#[derive(Debug)]
pub struct HttpUpstream {
    acceptor: Acceptor,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug)]
struct Script {
    always: Reply,
    next: VecDeque<Reply>,
    recorded: Vec<Recorded>,
}

impl HttpUpstream {
    /// Starts one that answers every request with `always`; port 0 picks a free one.
    pub fn start(address: SocketAddr, always: Reply) -> std::io::Result<Self> {
        let script = Script {
            always,
            next: VecDeque::new(),
            recorded: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let shared = Arc::clone(&script);
        let acceptor = Acceptor::start(address, move |stream| {
            // A peer that goes away, or writes what is not HTTP, is an ordinary end here.
            let _ = serve(stream, &shared);
        })?;
        Ok(Self { acceptor, script })
    }

    /// Starts one on a free loopback port.
    pub fn on_loopback(always: Reply) -> std::io::Result<Self> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0)), always)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.acceptor.address
    }

    /// Answers every request from now on with `reply`.
    pub fn set_reply(&self, reply: Reply) {
        lock(&self.script).always = reply;
    }

    /// The reply that lasts.
    pub fn reply(&self) -> Reply {
        lock(&self.script).always.clone()
    }

    /// Answers the next requests with these, one each, before falling back to the lasting reply.
    pub fn push_replies(&self, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.script).next.extend(replies);
    }

    /// All requests so far, in the order they were complete.
    pub fn recorded(&self) -> Vec<Recorded> {
        lock(&self.script).recorded.clone()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.acceptor.accepted()
    }
}

fn lock(script: &Mutex<Script>) -> std::sync::MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(recorded) = read_request(&mut reader, &mut stream, peer)? {
        let close = recorded
            .header("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let head = recorded.line.starts_with("HEAD ");
        if !recorded.is_complete {
            lock(script).recorded.push(recorded);
            break;
        }
        let reply = {
            let mut script = lock(script);
            script.recorded.push(recorded.clone());
            script
                .next
                .pop_front()
                .unwrap_or_else(|| script.always.clone())
        };
        if !perform(reply, &recorded, &mut stream, head)? || close {
            break;
        }
    }
    stream.shutdown(Shutdown::Both)
}

/// Carries a reply out; whether the connection can be used again.
fn perform(
    reply: Reply,
    request: &Recorded,
    stream: &mut TcpStream,
    head: bool,
) -> std::io::Result<bool> {
    match reply {
        Reply::Answer {
            status,
            headers,
            body,
            delay,
        } => {
            wait::rest(delay);
            let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
            let mut bytes = text.into_bytes();
            if !head {
                bytes.extend(body);
            }
            stream.write_all(&bytes)?;
            Ok(true)
        }
        Reply::Echo => {
            let mut text = format!("{}\n", request.line);
            for (name, value) in &request.headers {
                text.push_str(&format!("{name}: {value}\n"));
            }
            text.push('\n');
            let mut body = text.into_bytes();
            body.extend(&request.body);
            let headers = Vec::new();
            let answer = Reply::Answer {
                status: 200,
                headers,
                body,
                delay: Duration::ZERO,
            };
            perform(answer, request, stream, head)
        }
        Reply::Raw(bytes) => stream.write_all(&bytes).map(|()| false),
        Reply::Bytes(bytes) => stream.write_all(&bytes).map(|()| true),
        Reply::Upgrade => {
            let protocol = request.header("upgrade").unwrap_or("none");
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            std::io::copy(&mut stream.try_clone()?, stream).map(|_| false)
        }
        Reply::Reset => {
            // Closing with a linger time of zero sends a reset, unless a shutdown came before.
            rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?;
            Err(ErrorKind::ConnectionReset.into())
        }
        Reply::Close => Ok(false),
        Reply::CloseInBody => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")?;
            Ok(false)
        }
        Reply::Hang => {
            let mut rest = [0; 512];
            while stream.read(&mut rest)? > 0 {}
            Ok(false)
        }
    }
}

fn read_request(
    reader: &mut BufReader<TcpStream>,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> std::io::Result<Option<Recorded>> {
    let line = read_line(reader)?;
    if line.is_empty() {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let header = read_line(reader)?;
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let mut recorded = Recorded {
        peer,
        line,
        headers,
        body: Vec::new(),
        trailers: Vec::new(),
        is_complete: true,
    };
    if recorded
        .header("expect")
        .is_some_and(|v| v.eq_ignore_ascii_case("100-continue"))
    {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if read_body(reader, &mut recorded).is_err() {
        recorded.is_complete = false;
    }
    Ok(Some(recorded))
}

/// Reads the body, and trailers, into `request`; an error if the peer closes before its end.
fn read_body(reader: &mut BufReader<TcpStream>, request: &mut Recorded) -> std::io::Result<()> {
    let is_chunked = request
        .header("transfer-encoding")
        .is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    if !is_chunked {
        let length = request.header("content-length").map(str::parse);
        let length = length.transpose().map_err(std::io::Error::other)?;
        return read_exactly(reader, length.unwrap_or(0), &mut request.body);
    }
    loop {
        let size = read_line(reader)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
        if size == 0 {
            break;
        }
        read_exactly(reader, size, &mut request.body)?;
        read_line(reader)?;
    }
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok(());
        };
        let trailer = (name.to_owned(), value.trim().to_owned());
        request.trailers.push(trailer);
    }
}

fn read_exactly(
    reader: &mut BufReader<TcpStream>,
    size: u64,
    body: &mut Vec<u8>,
) -> std::io::Result<()> {
    match reader.take(size).read_to_end(body)? {
        read if u64::try_from(read).is_ok_and(|read| read == size) => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Connection, Request};

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn replies_come_in_their_order_and_requests_are_recorded() {
        let server = HttpUpstream::on_loopback(Reply::Echo).expect("loopback has a free port");
        server.push_replies([Reply::status(503, "no"), Reply::Close]);
        let mut kept = Connection::open(server.address(), LIMIT).expect("it listens");
        let request = Request::get("shop", "/a")
            .with_body("POST", "hello")
            .header("X-Case", "Kept");
        assert_eq!(kept.send(&request).expect("an answer").status, 503);
        assert!(
            kept.send(&request).is_err(),
            "the second request is met by a close"
        );
        let echo = client::send(server.address(), &request, LIMIT)
            .expect("an answer")
            .text();
        assert!(
            echo.contains("X-Case: Kept\n") && echo.ends_with("\n\nhello"),
            "{echo}"
        );
        let recorded = server.recorded();
        assert_eq!(recorded.len(), 3);
        assert_eq!(recorded[0].line, "POST /a HTTP/1.1");
        assert_eq!(server.accepted(), 2);
    }

    #[test]
    fn a_truncated_body_is_an_error_to_the_client() {
        let server = HttpUpstream::on_loopback(Reply::CloseInBody).expect("a free port");
        let error = client::get(server.address(), "shop", "/").expect_err("the body is cut");
        assert!(
            format!("{error:#}").contains("9 of 1000 bytes"),
            "{error:#}"
        );
    }
}
