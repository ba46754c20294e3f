//! What is asked of the API server, and what comes back before the first event.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use tokio::time::timeout;

use crate::cluster::connect::{Connection, chain, describe};
use crate::cluster::objects::Resource;
use crate::cluster::protobuf;
use crate::cluster::source::Limits;
use crate::cluster::watch::event::Status;
use crate::cluster::watch::failure::Failure;
use crate::cluster::watch::frame::Framing;
use crate::cluster::watch::journal::Journal;
use crate::cluster::watch::json;
use crate::cluster::watch::limit::{Limiter, Seat};
use crate::cluster::watch::metrics::ClientMetrics;
use crate::cluster::watch::pace::Pace;
use crate::cluster::watch::progress::{Progress, Wish};
use crate::cluster::watch::session::Session;

/// Objects asked for at a time where the list cannot be streamed.
pub(super) const PAGE: usize = 500;

/// A page is held whole. 500 EndpointSlices of the longest kind have less than this in protobuf.
const PAGE_BYTES_MAX: usize = 64 << 20;

/// A refusal is a sentence or two.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Shared by the tasks of one plan.
pub(super) struct Link {
    session: Session,
    /// What is counted.
    pub(super) metrics: Arc<ClientMetrics>,
    /// What is logged.
    pub(super) journal: Journal,
    /// How long we wait.
    pub(super) pace: Pace,
    limiter: Limiter,
    /// Every resource that is watched over this link.
    pub(super) followed: OnceLock<Box<[Arc<Progress>]>>,
}

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    fn of<B>(response: &Response<B>) -> Self {
        let protobuf = response.headers().get(CONTENT_TYPE).is_some_and(|value| {
            value
                .as_bytes()
                .starts_with(b"application/vnd.kubernetes.protobuf")
        });
        if protobuf { Self::Protobuf } else { Self::Json }
    }

    /// How its events are told apart.
    pub(super) fn framing(self) -> Framing {
        match self {
            Self::Protobuf => Framing::Length,
            Self::Json => Framing::Line,
        }
    }
}

/// The body of a watch.
pub(super) struct Stream {
    pub(super) encoding: Encoding,
    pub(super) body: Body,
    /// Held while it lists.
    pub(super) seat: Seat,
}

impl Link {
    pub(super) fn new(
        connection: Connection,
        metrics: Arc<ClientMetrics>,
        pace: Pace,
        limits: Limits,
    ) -> Self {
        let journal = Journal::new(connection.host());
        Self {
            session: Session::new(connection),
            metrics,
            journal,
            pace,
            limiter: Limiter::new(limits),
            followed: OnceLock::new(),
        }
    }

    /// The server's data went back in time, as one resource found out. Another may have passed its old version by now,
    /// and would miss what lies between.
    pub(super) fn rewound(&self) {
        for progress in self.followed.get().into_iter().flatten() {
            progress.wish(Wish::Rewound);
        }
    }

    /// Draws the conclusions for the tasks of this plan from a failure of one.
    pub(super) fn failed(&self, failure: &Failure) {
        if matches!(failure, Failure::Unauthorized(_) | Failure::Unreachable(_)) {
            self.session.doubt();
        }
    }

    /// Opens a watch, which may begin with a list.
    pub(super) async fn watch(
        &self,
        uri: &str,
        listing: bool,
        json_only: bool,
    ) -> Result<Stream, Failure> {
        let accept = if json_only {
            "application/json"
        } else {
            "application/vnd.kubernetes.protobuf;stream=watch,application/json"
        };
        let seat = self.admit(listing).await;
        let response = self.send(uri, accept).await?;
        Ok(Stream {
            seat,
            encoding: Encoding::of(&response),
            body: response.into_body(),
        })
    }

    /// Asks for something that comes whole.
    pub(super) async fn get(
        &self,
        uri: &str,
        json_only: bool,
    ) -> Result<(Encoding, bytes::Bytes), Failure> {
        let accept = if json_only {
            "application/json"
        } else {
            "application/vnd.kubernetes.protobuf,application/json"
        };
        self.get_as(uri, accept).await
    }

    /// Asks for the metadata of objects; a server that knows no such thing sends the objects.
    pub(super) async fn get_metadata(
        &self,
        uri: &str,
        json_only: bool,
    ) -> Result<(Encoding, bytes::Bytes), Failure> {
        let accept = if json_only {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
        } else {
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
             application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
             application/vnd.kubernetes.protobuf,application/json"
        };
        self.get_as(uri, accept).await
    }

    async fn get_as(&self, uri: &str, accept: &str) -> Result<(Encoding, bytes::Bytes), Failure> {
        let _seat = self.admit(true).await;
        let began = Instant::now();
        let response = self.send(uri, accept).await?;
        let encoding = Encoding::of(&response);
        let body = collect(response.into_body(), PAGE_BYTES_MAX, self.pace.list_idle).await?;
        self.metrics.took(self.session.host(), began.elapsed());
        Ok((encoding, body))
    }

    /// Waits until a request may be sent. One that counts as in flight does so while its seat is held.
    async fn admit(&self, counts: bool) -> Seat {
        let began = Instant::now();
        let seat = if counts {
            self.limiter.seat().await
        } else {
            self.limiter.token().await;
            None
        };
        self.metrics.held_back(self.session.host(), began.elapsed());
        seat
    }

    /// Sends a request and waits for the head of its reply, which is a success.
    async fn send(&self, uri: &str, accept: &str) -> Result<Response<Body>, Failure> {
        let pace = &self.pace;
        let (client, bearer) = self.session.client(pace.reply, pace.renew_min).await?;
        let mut request = Request::get(uri)
            .header(ACCEPT, accept)
            // A compressed watch would be held back until a block of it is full.
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, user_agent());
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request
            .body(Body::empty())
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        let host = self.session.host();
        let reply = match timeout(self.pace.reply, client.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.metrics.requested(host, None);
                return Err(Failure::Unreachable(describe(&error)));
            }
            Err(_) => {
                self.metrics.requested(host, None);
                return Err(Failure::Silent {
                    after: self.pace.reply,
                    watching: false,
                });
            }
        };
        self.metrics.requested(host, Some(reply.status()));
        if reply.status() == StatusCode::OK {
            return Ok(reply);
        }
        Err(Failure::refused(self.refusal(reply).await))
    }

    /// Reads why a request was refused.
    async fn refusal(&self, response: Response<Body>) -> Status {
        let code = response.status();
        let encoding = Encoding::of(&response);
        let seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = collect(response.into_body(), REFUSAL_BYTES_MAX, self.pace.reply).await;
        let body = body.unwrap_or_default();
        let decoded = match encoding {
            Encoding::Protobuf => protobuf::status(&body).ok(),
            Encoding::Json => json::status(&body).ok(),
        };
        // A proxy in between answers in its own words.
        let mut status = decoded.unwrap_or_default();
        status.code = code.as_u16();
        status.retry_after = status.retry_after.or(seconds);
        if status.message.is_empty() {
            code.canonical_reason()
                .unwrap_or("no reason given")
                .clone_into(&mut status.message);
        }
        status
    }
}

/// A whole body; `idle` is the longest wait for its next piece.
async fn collect(body: Body, max: usize, idle: Duration) -> Result<bytes::Bytes, Failure> {
    let mut body = Limited::new(body, max);
    let mut whole = bytes::BytesMut::new();
    loop {
        match timeout(idle, body.frame()).await {
            Err(_) => {
                return Err(Failure::Silent {
                    after: idle,
                    watching: false,
                });
            }
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(error))) => return Err(Failure::Unreachable(chain(&*error))),
            Ok(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    whole.extend_from_slice(piece);
                }
            }
        }
    }
}

fn user_agent() -> &'static str {
    const {
        match (
            std::env::consts::OS.as_bytes(),
            std::env::consts::ARCH.as_bytes(),
        ) {
            (b"linux", b"x86_64") => {
                concat!("Fingerpost/", env!("CARGO_PKG_VERSION"), " (linux/amd64)")
            }
            (b"linux", b"aarch64") => {
                concat!("Fingerpost/", env!("CARGO_PKG_VERSION"), " (linux/arm64)")
            }
            _ => concat!("Fingerpost/", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Where a resource is found, and which part of it is wanted.
pub(super) struct Target {
    /// The group and version, up to the name of the resource.
    group: &'static str,
    resource: Resource,
    labels: String,
    fields: &'static str,
}

impl Target {
    pub(super) fn new(resource: Resource, labels: Option<&str>) -> Self {
        let group = match resource {
            Resource::Namespaces | Resource::Services | Resource::Pods => "/api/v1",
            Resource::EndpointSlices => "/apis/discovery.k8s.io/v1",
            Resource::ServiceImports => "/apis/multicluster.x-k8s.io/v1alpha1",
        };
        let mut selector = String::new();
        if let Some(labels) = labels {
            selector.push_str("&labelSelector=");
            escape(labels, &mut selector);
        }
        Self {
            group,
            resource,
            labels: selector,
            // Pods that ended have given their address back.
            fields: match resource {
                Resource::Pods => {
                    "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"
                }
                _ => "",
            },
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.group, self.resource.name())
    }

    fn selectors(&self) -> String {
        let mut selectors = self.labels.clone();
        if !self.fields.is_empty() {
            selectors.push_str("&fieldSelector=");
            escape(self.fields, &mut selectors);
        }
        selectors
    }

    /// A list as a stream, then changes: the newest state, not what some cache holds.
    pub(super) fn stream(&self, seconds: u64) -> String {
        format!(
            "{}?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
             &timeoutSeconds={seconds}{}",
            self.path(),
            self.selectors()
        )
    }

    /// Changes from a version on.
    pub(super) fn watch(&self, version: &str, seconds: u64) -> String {
        let mut uri = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion=",
            self.path()
        );
        escape(version, &mut uri);
        format!("{uri}&timeoutSeconds={seconds}{}", self.selectors())
    }

    /// A page of a list.
    pub(super) fn page(&self, limit: usize, next: &str) -> String {
        let mut uri = format!("{}?limit={limit}", self.path());
        if !next.is_empty() {
            uri.push_str("&continue=");
            escape(next, &mut uri);
        }
        uri + &self.selectors()
    }

    /// One object, as a list of at most one: our role may list, not get. What the selectors leave out is not there.
    pub(super) fn one(&self, namespace: &str, name: &str) -> String {
        let mut uri = self.group.to_owned();
        if !namespace.is_empty() {
            uri.push_str("/namespaces/");
            escape(namespace, &mut uri);
        }
        uri.push('/');
        uri.push_str(self.resource.name());
        uri.push_str("?fieldSelector=");
        let mut fields = format!("metadata.name={name}");
        if !self.fields.is_empty() {
            fields.push(',');
            fields.push_str(self.fields);
        }
        escape(&fields, &mut uri);
        uri + &self.labels
    }

    /// Is the server at least as far as this version? Refused as too large if not; a watch would only be silent.
    pub(super) fn probe(&self, version: &str) -> String {
        let mut uri = format!(
            "{}?limit=1&resourceVersionMatch=NotOlderThan&resourceVersion=",
            self.path()
        );
        escape(version, &mut uri);
        uri
    }
}

/// Percent-encodes a value of a query (RFC 3986, section 2.3 lists what may stand).
fn escape(value: &str, into: &mut String) {
    use std::fmt::Write;
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            _ => write!(into, "%{byte:02X}").expect("a String takes all that is written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_escaped() {
        let target = Target::new(Resource::Services, Some("app in (a, b),!c"));
        assert!(
            target
                .page(7, "")
                .ends_with("?limit=7&labelSelector=app%20in%20%28a%2C%20b%29%2C%21c"),
            "{}",
            target.page(7, "")
        );
    }

    #[test]
    fn pods_that_ended_are_not_asked_for() {
        let uri = Target::new(Resource::Pods, None).stream(300);
        assert!(uri.ends_with(
            "&fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed%2Cstatus.phase%21%3DUnknown"
        ));
        assert!(
            !Target::new(Resource::Services, None)
                .stream(300)
                .contains("Selector")
        );
    }

    #[test]
    fn one_object_is_looked_for_where_it_is_with_the_selectors_of_all() {
        assert_eq!(
            Target::new(Resource::EndpointSlices, Some("a=b")).one("shop", "web-1"),
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices\
             ?fieldSelector=metadata.name%3Dweb-1&labelSelector=a%3Db"
        );
        assert_eq!(
            Target::new(Resource::Namespaces, None).one("", "shop"),
            "/api/v1/namespaces?fieldSelector=metadata.name%3Dshop"
        );
        let pod = Target::new(Resource::Pods, None).one("shop", "a&b");
        assert!(
            pod.starts_with("/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Da%26b%2Cstatus.phase%21%3D"),
            "{pod}"
        );
    }

    #[test]
    fn a_version_cannot_add_parameters() {
        let uri = Target::new(Resource::Services, None).watch("1&limit=0", 300);
        assert!(uri.contains("resourceVersion=1%26limit%3D0&"), "{uri}");
    }
}
