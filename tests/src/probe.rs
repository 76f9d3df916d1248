// SPDX-License-Identifier: Apache-2.0
//! `remora-probe`: one end of a connection, as a process of its own.
//!
//! Redirection depends on who owns a socket, so tests need ends that run as other users:
//!
//! * `serve ADDRESS...` listens on TCP and UDP at each address; a TCP client is told the address it
//!   dialled (`SO_ORIGINAL_DST`) and the address it came to, a UDP client gets its datagram back
//!   behind the address it came to;
//! * `dial ADDRESS [SOURCE]` prints what a TCP server says, or `refused` or `silent`;
//! * `ask ADDRESS [SOURCE]` does the same over UDP;
//! * `hold ADDRESS FILE` dials, prints what the server said, waits until FILE exists, then sends a
//!   line and prints the answer: the same connection before and after.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::wait;
use socket2::{Domain, SockRef, Socket, Type};

const LIMIT: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", addresses @ ..] if !addresses.is_empty() => serve(addresses),
        ["dial", to] => dial(parse(to)?, None),
        ["dial", to, from] => dial(parse(to)?, Some(parse(from)?)),
        ["ask", to] => ask(parse(to)?, None),
        ["ask", to, from] => ask(parse(to)?, Some(parse(from)?)),
        ["hold", to, file] => hold(parse(to)?, Path::new(file)),
        _ => bail!("usage: remora-probe serve|dial|ask|hold ADDRESS..."),
    }
}

fn parse(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("`{text}` is not ADDRESS:PORT"))
}

fn serve(addresses: &[&str]) -> anyhow::Result<()> {
    let mut threads = Vec::new();
    for address in addresses {
        let address = parse(address)?;
        let tcp = listen(address).with_context(|| format!("listen on {address}"))?;
        let udp = bind(address, Type::DGRAM).with_context(|| format!("bind UDP {address}"))?;
        let udp = UdpSocket::from(udp);
        threads.push(std::thread::spawn(move || serve_tcp(&tcp)));
        threads.push(std::thread::spawn(move || serve_udp(&udp)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = bind(address, Type::STREAM)?;
    socket.listen(64)?;
    Ok(socket.into())
}

/// Takes the address alone: an IPv6 wildcard leaves IPv4 to its own socket.
fn bind(address: SocketAddr, kind: Type) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn serve_tcp(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // The peer leaving is the usual end.
            let _ = greet_and_echo(stream);
        });
    }
}

fn greet_and_echo(mut stream: TcpStream) -> std::io::Result<()> {
    let local = stream.local_addr()?;
    let peer = stream.peer_addr()?.ip();
    let socket = SockRef::from(&stream);
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let original = original.ok().and_then(|address| address.as_socket());
    // Without a translation the kernel knows no original address, or names the local one.
    let original = original.filter(|original| *original != local);
    let dialled = original.map_or_else(|| "direct".to_owned(), |original| original.to_string());
    writeln!(
        stream,
        "dialled={dialled} port={} from={peer}",
        local.port()
    )?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        stream.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket) {
    let mut buffer = [0; 1500];
    let Ok(local) = socket.local_addr() else {
        return;
    };
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(format!("port={} {text}", local.port()).as_bytes(), from);
    }
}

fn dial(to: SocketAddr, from: Option<SocketAddr>) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket
            .bind(&from.into())
            .with_context(|| format!("bind {from}"))?;
    }
    if let Err(error) = socket.connect_timeout(&to.into(), LIMIT) {
        println!("refused: {error}");
        return Ok(());
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    println!("{}", read_line(&mut stream)?);
    Ok(())
}

fn ask(to: SocketAddr, from: Option<SocketAddr>) -> anyhow::Result<()> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(from.map_or(parse(any)?, |from| from)).context("bind")?;
    // A connected socket accepts only answers that seem to come from whom it asked.
    socket.connect(to)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(b"question").context("send")?;
    let mut buffer = [0; 1500];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            println!(
                "{}",
                String::from_utf8_lossy(buffer.get(..length).unwrap_or_default())
            );
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => println!("refused"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => println!("silent"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn hold(to: SocketAddr, file: &Path) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    println!("{}", read_line(&mut stream)?);
    wait::until_true("the signal file", Duration::from_secs(60), || file.exists())?;
    stream.write_all(b"still here\n")?;
    println!("{}", read_line(&mut stream)?);
    Ok(())
}

/// Reads one line, byte by byte so that nothing beyond it is taken.
fn read_line(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok("silent".to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
