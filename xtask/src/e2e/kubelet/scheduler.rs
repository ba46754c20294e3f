//! The scheduler: a node for every pod.

use serde_json::{Value, json};

use super::path_of;
use crate::bench::api::Connection;
use crate::e2e::network::{NODES, Node};

/// Binds one pod that has no node to the one with the fewest servers that stay, as anti-affinity has it.
pub fn schedule(pods: &[Value], connection: &mut Connection) -> Result<(), String> {
    let Some(pod) = pods.iter().find(|pod| pod["spec"]["nodeName"].is_null()) else {
        return Ok(());
    };
    let servers = |node: &Node| {
        let stays = |pod: &&Value| {
            pod["spec"]["nodeName"] == node.name()
                && is_server(pod)
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        pods.iter().filter(stays).count()
    };
    let node = NODES.iter().min_by_key(|&node| servers(node));
    let name = node.expect("there are two").name();
    let metadata = &pod["metadata"];
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "target": {"apiVersion": "v1", "kind": "Node", "name": name},
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
    });
    let path = format!("{}/binding", path_of(pod));
    connection.demand("POST", &path, Some(&binding)).map(drop)
}

pub fn is_server(pod: &Value) -> bool {
    let image = pod["spec"]["containers"][0]["image"].as_str();
    image.is_some_and(|image| image.split(':').next() == Some("fingerpost"))
}
