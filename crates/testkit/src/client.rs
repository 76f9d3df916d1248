// SPDX-License-Identifier: Apache-2.0
//! An HTTP/1.1 client that hides nothing: heads as they came, one connection for each request
//! unless a [`Connection`] is kept.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A request to be written as it stands.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The request target.
    pub target: String,
    /// Header lines in order; `Host` is one of them.
    pub headers: Vec<(String, String)>,
    /// The body; a `Content-Length` is added if it is not empty.
    pub body: Vec<u8>,
}

impl Request {
    /// A GET for a host.
    pub fn get(host: &str, target: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            target: target.to_owned(),
            headers: vec![("Host".to_owned(), host.to_owned())],
            body: Vec::new(),
        }
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Changes the method and sets a body.
    #[must_use]
    pub fn with_body(mut self, method: &str, body: impl Into<Vec<u8>>) -> Self {
        method.clone_into(&mut self.method);
        self.body = body.into();
        self
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines in order, case kept.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
    /// The statuses of the interim answers (1xx) that came before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// The first value of a header, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.iter();
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks once, over a new connection that is closed afterwards.
pub fn send(address: SocketAddr, request: &Request, limit: Duration) -> anyhow::Result<Response> {
    let mut connection = Connection::open(address, limit)?;
    connection.send(&request.clone().header("Connection", "close"))
}

/// GETs a path over a new connection; ten seconds for all of it.
pub fn get(address: SocketAddr, host: &str, target: &str) -> anyhow::Result<Response> {
    send(
        address,
        &Request::get(host, target),
        Duration::from_secs(10),
    )
}

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; `limit` bounds the connect and each read and write.
    pub fn open(address: SocketAddr, limit: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, limit)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// The socket, for what this client does not do.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Sends a request and reads its final response; 1xx responses are noted.
    pub fn send(&mut self, request: &Request) -> anyhow::Result<Response> {
        self.write(&request.to_bytes())?;
        self.read_response(&request.method)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream().write_all(bytes).context("write the request")
    }

    /// Reads the final response to a request with this method.
    pub fn read_response(&mut self, method: &str) -> anyhow::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let (status, headers) = self.read_head().context("read the response head")?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let mut response = Response {
                status,
                headers,
                body: Vec::new(),
                trailers: Vec::new(),
                interim,
            };
            if method != "HEAD" && !matches!(status, 101 | 204 | 304) {
                self.read_body(&mut response)
                    .context("read the response body")?;
            }
            return Ok(response);
        }
    }

    /// Reads as many bytes as there are in `expected`; an error if they are others.
    pub fn expect(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        let mut found = Vec::new();
        self.read_exactly(u64::try_from(expected.len())?, &mut found)?;
        if found != expected {
            bail!("expected {expected:?}, found {found:?}");
        }
        Ok(())
    }

    /// Reads until the peer closes.
    pub fn read_to_end(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn read_head(&mut self) -> anyhow::Result<(u16, Vec<(String, String)>)> {
        let first = self.read_line()?;
        let mut words = first.split(' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().and_then(|word| word.parse().ok());
        let Some(status) = status.filter(|_| version.starts_with("HTTP/1.")) else {
            bail!("`{first}` is not a status line");
        };
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("header `{line}`"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn read_body(&mut self, response: &mut Response) -> anyhow::Result<()> {
        let coding = response.header("transfer-encoding").unwrap_or_default();
        if coding.eq_ignore_ascii_case("chunked") {
            return self.read_chunks(response);
        }
        match response.header("content-length") {
            Some(length) => {
                let length = length.parse().context("content-length")?;
                self.read_exactly(length, &mut response.body)
            }
            None => {
                self.reader.read_to_end(&mut response.body)?;
                Ok(())
            }
        }
    }

    fn read_chunks(&mut self, response: &mut Response) -> anyhow::Result<()> {
        loop {
            let line = self.read_line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).with_context(|| format!("chunk `{line}`"))?;
            if size == 0 {
                break;
            }
            self.read_exactly(size, &mut response.body)?;
            self.read_line()?;
        }
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok(());
            };
            let trailer = (name.to_owned(), value.trim().to_owned());
            response.trailers.push(trailer);
        }
    }

    fn read_exactly(&mut self, size: u64, body: &mut Vec<u8>) -> anyhow::Result<()> {
        let read = (&mut self.reader).take(size).read_to_end(body)?;
        if u64::try_from(read)? != size {
            bail!("the peer closed after {read} of {size} bytes");
        }
        Ok(())
    }

    fn read_line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            bail!("the peer closed the connection");
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).context("a head line is text")
    }
}
