// SPDX-License-Identifier: Apache-2.0
//! Both ends of HTTP/2 with prior knowledge: a client that hides nothing, and a scripted server.
//!
//! Sockets belong to the network namespace of the calling thread, as with the rest of the bench.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A message as it came: a request at the server, an answer at the client.
#[derive(Debug, Clone)]
pub struct Message<Head> {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

/// An answer.
pub type Answer = Message<Response<()>>;

impl Answer {
    /// A field of the head, or `None` if it is absent or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// A field of the trailers.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name)?.to_str().ok()
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }
}

/// Sends one request over a connection of its own, and waits for the whole answer.
///
/// *Errors*: the connection or the stream failed, or took longer than ten seconds.
pub fn ask(to: SocketAddr, request: Message<Request<()>>) -> anyhow::Result<Answer> {
    let mut answers = ask_all(to, vec![request])?;
    answers.pop().context("one request has one answer")?
}

/// Sends requests side by side over one connection; the answers are in the order of the requests.
pub fn ask_all(
    to: SocketAddr,
    requests: Vec<Message<Request<()>>>,
) -> anyhow::Result<Vec<anyhow::Result<Answer>>> {
    let stream =
        TcpStream::connect_timeout(&to, LIMIT).with_context(|| format!("connect to {to}"))?;
    stream.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let all = async {
            let (mut sender, connection) = h2::client::handshake(stream).await?;
            let driver = tokio::spawn(connection);
            let mut streams = Vec::new();
            for request in requests {
                sender = sender.ready().await?;
                let (answer, mut body) = sender.send_request(request.head, false)?;
                send_rest(&mut body, request.body, request.trailers)?;
                streams.push(answer);
            }
            let mut answers = Vec::new();
            for answer in streams {
                answers.push(read_answer(answer).await);
            }
            driver.abort();
            Ok::<_, anyhow::Error>(answers)
        };
        tokio::time::timeout(LIMIT, all)
            .await
            .context("no answer in time")?
    })
}

async fn read_answer(answer: h2::client::ResponseFuture) -> anyhow::Result<Answer> {
    let (head, body) = answer.await?.into_parts();
    read_rest(Response::from_parts(head, ()), body).await
}

/// What the scripted server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers; `trailers` may be empty.
    Answer {
        /// The status.
        status: u16,
        /// Fields of the head.
        headers: Vec<(&'static str, &'static str)>,
        /// The body.
        body: &'static str,
        /// Fields after the body.
        trailers: Vec<(&'static str, &'static str)>,
    },
    /// Returns the request's body, and its trailers if it has any.
    Echo,
    /// Resets the stream with this reason.
    Reset(Reason),
    /// Never answers.
    Hang,
}

/// A scripted HTTP/2 server.
#[derive(Debug)]
pub struct H2Upstream {
    script: Arc<Mutex<Script>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Script {
    always: Reply,
    recorded: Vec<Message<Request<()>>>,
}

impl H2Upstream {
    /// Starts one that answers every request with `always`.
    pub fn start(address: SocketAddr, always: Reply) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let script = Script {
            always,
            recorded: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let shared = Arc::clone(&script);
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime()?;
        let thread = std::thread::Builder::new()
            .name("h2-upstream".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = accept(listener, shared) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            script,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Answers every request from now on with `reply`.
    pub fn set_reply(&self, reply: Reply) {
        lock(&self.script).always = reply;
    }

    /// All requests so far, in the order they were complete.
    pub fn recorded(&self) -> Vec<Message<Request<()>>> {
        lock(&self.script).recorded.clone()
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let script = Arc::clone(&script);
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond, Arc::clone(&script)));
            }
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    script: Arc<Mutex<Script>>,
) -> anyhow::Result<()> {
    let reply = lock(&script).always.clone();
    let (head, body) = request.into_parts();
    let request = read_rest(Request::from_parts(head, ()), body).await?;
    lock(&script).recorded.push(request.clone());
    match reply {
        Reply::Answer {
            status,
            headers,
            body,
            trailers,
        } => {
            let mut head = Response::builder().status(status);
            for (name, value) in headers {
                head = head.header(name, value);
            }
            if body.is_empty() && trailers.is_empty() {
                respond.send_response(head.body(())?, true)?;
                return Ok(());
            }
            let mut stream = respond.send_response(head.body(())?, false)?;
            let trailers = (!trailers.is_empty())
                .then(|| fields(&trailers))
                .transpose()?;
            send_rest(&mut stream, Bytes::from_static(body.as_bytes()), trailers)
        }
        Reply::Echo => {
            let mut stream = respond.send_response(Response::new(()), false)?;
            send_rest(&mut stream, request.body, request.trailers)
        }
        Reply::Reset(reason) => {
            respond.send_reset(reason);
            Ok(())
        }
        Reply::Hang => std::future::pending().await,
    }
}

/// Makes fields of pairs.
pub fn fields(pairs: &[(&'static str, &'static str)]) -> anyhow::Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse()?);
    }
    Ok(map)
}

fn send_rest(
    stream: &mut SendStream<Bytes>,
    body: Bytes,
    trailers: Option<HeaderMap>,
) -> anyhow::Result<()> {
    // The bench's bodies fit into memory: h2 keeps what the window does not allow yet.
    stream.send_data(body, trailers.is_none())?;
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    }
    Ok(())
}

async fn read_rest<Head>(head: Head, mut body: RecvStream) -> anyhow::Result<Message<Head>> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = body.trailers().await?;
    Ok(Message {
        head,
        body: bytes.into(),
        trailers,
    })
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")
}

fn lock(script: &Mutex<Script>) -> std::sync::MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

const LIMIT: Duration = Duration::from_secs(10);
