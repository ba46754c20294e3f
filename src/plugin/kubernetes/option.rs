//! The options of `kubernetes`: every one of CoreDNS, `manifests`, `reconcile` and `snapshot`.

use crate::plugin::OptionSpec;

pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "manifests",
        syntax: "manifests PATH...",
        default: "an API server",
        help: "reads the cluster from YAML or JSON files or folders, and watches them",
    },
    OptionSpec {
        name: "kubeconfig",
        syntax: "kubeconfig FILE [CONTEXT]",
        default: "the service account",
        help: "reaches the API server as a kubeconfig file says",
    },
    OptionSpec {
        name: "endpoint",
        syntax: "endpoint URL",
        default: "",
        help: "reaches the API server at URL",
    },
    OptionSpec {
        name: "tls",
        syntax: "tls CERT KEY CA",
        default: "",
        help: "client certificate, its key, and the CA of the server, for `endpoint`",
    },
    OptionSpec {
        name: "namespaces",
        syntax: "namespaces NAMESPACE...",
        default: "all",
        help: "answers for these namespaces only",
    },
    OptionSpec {
        name: "namespace_labels",
        syntax: "namespace_labels SELECTOR",
        default: "",
        help: "answers for namespaces with these labels only",
    },
    OptionSpec {
        name: "labels",
        syntax: "labels SELECTOR",
        default: "",
        help: "answers for Services, EndpointSlices and Pods with these labels only",
    },
    OptionSpec {
        name: "pods",
        syntax: "pods disabled|insecure|verified",
        default: "disabled",
        help: "which Pod names are answered: none, any that spells an address, those of Pods that exist",
    },
    OptionSpec {
        name: "endpoint_pod_names",
        syntax: "endpoint_pod_names",
        default: "endpoints are named for their address",
        help: "names endpoints without a host name for their Pod",
    },
    OptionSpec {
        name: "ttl",
        syntax: "ttl SECONDS",
        default: "5",
        help: "TTL of every record, 0 to 3600 s",
    },
    OptionSpec {
        name: "noendpoints",
        syntax: "noendpoints",
        default: "",
        help: "does not watch endpoints: headless Services and endpoints are not answered",
    },
    OptionSpec {
        name: "ignore",
        syntax: "ignore empty_service",
        default: "",
        help: "denies Services without a ready endpoint",
    },
    OptionSpec {
        name: "fallthrough",
        syntax: "fallthrough [ZONES...]",
        default: "NXDOMAIN",
        help: "passes names that the cluster does not have on, all or those in ZONES",
    },
    OptionSpec {
        name: "startup_timeout",
        syntax: "startup_timeout DURATION",
        default: "5s",
        help: "how long the start waits for the first lists; 0 does not wait",
    },
    OptionSpec {
        name: "reconcile",
        syntax: "reconcile DURATION|off",
        default: "10m",
        help: "how often what is known is compared with what the API server has, at least 1s, and repaired",
    },
    OptionSpec {
        name: "snapshot",
        syntax: "snapshot PATH [MAX_AGE]",
        default: "",
        help: "keeps the cluster in a file, and serves it at a start without the API server if it is not older than MAX_AGE (24h)",
    },
    OptionSpec {
        name: "multicluster",
        syntax: "multicluster ZONES...",
        default: "",
        help: "answers what other clusters export, by ServiceImports, in ZONES, which the line lists too",
    },
    OptionSpec {
        name: "zonal",
        syntax: "zonal",
        default: "",
        help: "answers `ZONE.pin._zone.` and `ZONE.prefer._zone.` before headless Services: their endpoints in a topology zone",
    },
    OptionSpec {
        name: "apiserver_qps",
        syntax: "apiserver_qps NUMBER",
        default: "5",
        help: "requests per second to the API server, opening of watches included; 0 is the default",
    },
    OptionSpec {
        name: "apiserver_burst",
        syntax: "apiserver_burst NUMBER",
        default: "10",
        help: "requests that may come at once above that rate; 0 is the default",
    },
    OptionSpec {
        name: "apiserver_max_inflight",
        syntax: "apiserver_max_inflight NUMBER",
        default: "",
        help: "lists and other requests in flight at once, watches aside; 0 does not limit them",
    },
];
