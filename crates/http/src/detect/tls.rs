// SPDX-License-Identifier: Apache-2.0
//! Reads the server name and the protocols that a TLS client asks for. Source: RFC 8446 section 4.
//!
//! Nothing is decrypted, answered or consumed: the proxy shows the bytes from the start of the
//! connection, again whenever there are more, and passes them on unchanged.
//!
//! **Invariant:** more than [`MAX_HELLO`] bytes are never asked for; every length that a peer gives is checked against
//! what contains it.

use std::borrow::Cow;

use remora_primitives::HostName;

/// The longest prefix that is waited for, headers of records included. Unit: bytes.
pub const MAX_HELLO: usize = 16 * 1024;

/// What a ClientHello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name; `None` if there is none or if it is no host name.
    pub sni: Option<HostName>,
    /// The application protocols, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// How far the bytes reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The ClientHello is not complete.
    NeedMore,
    /// It is complete.
    Hello(ClientHello),
}

/// Bytes that are no ClientHello, with the rule that they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a TLS client hello: {0}")]
pub struct NotTls(pub &'static str);

/// Reads a ClientHello from the first bytes of a connection; it may span several records.
///
/// # Errors
/// As soon as the bytes cannot become a ClientHello within [`MAX_HELLO`] bytes.
pub fn parse_client_hello(bytes: &[u8]) -> Result<Progress, NotTls> {
    let message = join_records(bytes)?;
    let [kind, a, b, c, body @ ..] = &message[..] else {
        return match message.first() {
            None | Some(&CLIENT_HELLO) => need_more(bytes),
            Some(_) => Err(NotTls("the first message is another one")),
        };
    };
    if *kind != CLIENT_HELLO {
        return Err(NotTls("the first message is another one"));
    }
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if length > MAX_HELLO - 4 {
        return Err(TOO_LONG);
    }
    match body.get(..length) {
        None => need_more(bytes),
        Some(hello) => read_hello(hello).map(Progress::Hello),
    }
}

const TOO_LONG: NotTls = NotTls("it is longer than 16 KiB");
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

fn need_more(bytes: &[u8]) -> Result<Progress, NotTls> {
    if bytes.len() < MAX_HELLO {
        Ok(Progress::NeedMore)
    } else {
        Err(TOO_LONG)
    }
}

/// The handshake bytes of the leading records; copied only if they span more than one.
fn join_records(bytes: &[u8]) -> Result<Cow<'_, [u8]>, NotTls> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    while !rest.is_empty() && joined.len() < MAX_HELLO {
        let (kind, major) = (rest.first(), rest.get(1));
        if kind != Some(&HANDSHAKE) || major.is_some_and(|major| *major != 3) {
            // A complete message may be followed by anything.
            if joined.is_empty() || !is_complete(&joined) {
                return Err(NotTls("a record is not a TLS handshake record"));
            }
            break;
        }
        let [_, _, _, high, low, tail @ ..] = rest else {
            break;
        };
        let length = usize::from(*high) << 8 | usize::from(*low);
        if !(1..=MAX_HELLO).contains(&length) {
            return Err(NotTls("a record has an impossible length"));
        }
        let fragment = tail.get(..length.min(tail.len())).unwrap_or_default();
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
        rest = tail.get(length..).unwrap_or_default();
    }
    Ok(joined)
}

fn is_complete(message: &[u8]) -> bool {
    match message {
        [_, a, b, c, body @ ..] => {
            body.len() >= usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)
        }
        _ => false,
    }
}

fn read_hello(body: &[u8]) -> Result<ClientHello, NotTls> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?;
    hello.short_vector()?;
    let suites = hello.vector()?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(NotTls("the cipher suites are malformed"));
    }
    if hello.short_vector()?.is_empty() {
        return Err(NotTls("there is no compression method"));
    }
    let mut found = ClientHello::default();
    if hello.0.is_empty() {
        return Ok(found);
    }
    let mut extensions = Reader(hello.vector()?);
    if !hello.0.is_empty() {
        return Err(NotTls("bytes follow the extensions"));
    }
    let (mut names, mut protocols) = (0, 0);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let data = extensions.vector()?;
        match kind {
            SERVER_NAME => {
                names += 1;
                found.sni = read_server_name(data)?;
            }
            ALPN => {
                protocols += 1;
                found.alpn = read_alpn(data)?;
            }
            _ => {}
        }
    }
    if names > 1 || protocols > 1 {
        return Err(NotTls("an extension is repeated"));
    }
    Ok(found)
}

/// RFC 6066 section 3: a list of which only the first host name counts.
fn read_server_name(data: &[u8]) -> Result<Option<HostName>, NotTls> {
    let mut extension = Reader(data);
    let mut list = Reader(extension.vector()?);
    if !extension.0.is_empty() {
        return Err(NotTls("the server name list is malformed"));
    }
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.take(1)?;
        let name = list.vector()?;
        if kind == [0] && found.is_none() {
            found = Some(name);
        }
    }
    let name = found.and_then(|name| std::str::from_utf8(name).ok());
    Ok(name.and_then(|name| HostName::try_new(name).ok()))
}

/// RFC 7301 section 3.1: a list of names that are not empty.
fn read_alpn(data: &[u8]) -> Result<Vec<Vec<u8>>, NotTls> {
    let mut extension = Reader(data);
    let mut list = Reader(extension.vector()?);
    if !extension.0.is_empty() || list.0.is_empty() {
        return Err(NotTls("the protocol list is malformed"));
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.short_vector()?;
        if protocol.is_empty() {
            return Err(NotTls("a protocol name is empty"));
        }
        protocols.push(protocol.to_vec());
    }
    Ok(protocols)
}

/// Reads forward within bounds.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], NotTls> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(NotTls("a length exceeds what contains it"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, NotTls> {
        Ok(self
            .take(2)?
            .iter()
            .fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
    }

    /// A vector with two bytes of length.
    fn vector(&mut self) -> Result<&'a [u8], NotTls> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    /// A vector with one byte of length.
    fn short_vector(&mut self) -> Result<&'a [u8], NotTls> {
        let length = self.take(1)?.first().copied().unwrap_or_default();
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests;
