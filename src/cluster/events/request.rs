//! One request about Events, and what the API server says to it.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::cluster::connect::{Connection, chain, describe};

/// For one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Octets of a reply that are read.
const REPLY_MAX: usize = 64 << 10;

#[derive(Deserialize)]
struct Reply {
    metadata: Option<Metadata>,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
}

/// The Events of one namespace. A client is made for each request: they are rare, and credentials are renewed.
pub(super) struct Collection {
    pub(super) connection: Connection,
    pub(super) namespace: String,
}

impl Collection {
    /// Sends a request about Events of the namespace: of all, or of `/NAME`. The name of the one in the reply; none if there is no such thing.
    pub(super) async fn ask(
        &self,
        method: Method,
        object: &str,
        body: &Value,
    ) -> Result<Option<String>, String> {
        let host = self.connection.host();
        let outcome = timeout(PATIENCE, self.send(&method, object, body)).await;
        let (status, reply) = match outcome {
            Ok(Ok(reply)) => reply,
            Ok(Err(why)) => return Err(format!("API server `{host}`: {why}")),
            Err(_) => return Err(format!("API server `{host}` did not answer")),
        };
        let reply: Option<Reply> = serde_json::from_slice(&reply).ok();
        let verb = if method == Method::POST {
            "create"
        } else {
            "patch"
        };
        match status {
            StatusCode::OK | StatusCode::CREATED => {
                let name = reply.and_then(|reply| reply.metadata?.name);
                Ok(Some(name.unwrap_or_default()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::FORBIDDEN => Err(format!(
                "API server `{host}` does not let us `{verb}` `events`; it takes the Role of our service account in \
                 `deploy/base/rbac.yaml`"
            )),
            status => {
                let mut why = format!("API server `{host}` says {}", status.as_u16());
                if let Some(reply) = reply.filter(|reply| !reply.message.is_empty()) {
                    let _ = write!(why, ": {}", reply.message);
                }
                Err(why)
            }
        }
    }

    async fn send(
        &self,
        method: &Method,
        object: &str,
        body: &Value,
    ) -> Result<(StatusCode, bytes::Bytes), String> {
        // Credentials may have been renewed since the last time, which is long ago.
        let connection = self.connection.again().map_err(|error| error.0)?;
        if connection.runs_a_program() {
            return Err(
                "its credentials come from a program, which is not run for this".to_owned(),
            );
        }
        let client = connection.client()?;
        let content = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let namespace = &self.namespace;
        let mut request = Request::builder()
            .method(method)
            .uri(format!(
                "/apis/events.k8s.io/v1/namespaces/{namespace}/events{object}"
            ))
            .header(CONTENT_TYPE, content);
        if let Some(bearer) = connection.bearer() {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request
            .body(Body::from(body.to_string().into_bytes()))
            .map_err(|error| error.to_string())?;
        let reply = client
            .send(request)
            .await
            .map_err(|error| describe(&error))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), REPLY_MAX).collect().await;
        let body = body.map_err(|error| chain(&*error))?;
        Ok((status, body.to_bytes()))
    }
}
