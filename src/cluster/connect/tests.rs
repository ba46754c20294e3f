//! Sources that can be used, and what is said of those that cannot.

use super::*;

fn kubeconfig(contexts: &[&str], current: &str) -> String {
    let contexts: Vec<_> = contexts
        .iter()
        .map(|name| format!("{{name: {name}, context: {{cluster: {name}, user: me}}}}"))
        .collect();
    let named: Vec<_> = ["one", "two"]
        .iter()
        .map(|name| {
            format!("{{name: {name}, cluster: {{server: \"http://{name}.example:6443\"}}}}")
        })
        .collect();
    format!(
        "current-context: \"{current}\"\ncontexts: [{}]\nclusters: [{}]\nusers: [{{name: me, user: {{token: t}}}}]\n",
        contexts.join(","),
        named.join(",")
    )
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// A CA certificate, valid for a hundred years, whose key nobody has.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUHTsVzdNVreRZrvrgbTMuMr3j9pswCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIwNDMwMzNaGA8yMTI2MTAyOTA0MzAz
M1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKN4
NTJ/twCJj4EZ5omwGmvN67sdq6tT9AdJE/6f+RPmWIJ+liP/1q/fbkBszkNCdSzQ
f88GtNv+cFkBWnxdy36jUzBRMB0GA1UdDgQWBBTokiB5TjOm7dKRQ9XwGUzmYvci
uzAfBgNVHSMEGDAWgBTokiB5TjOm7dKRQ9XwGUzmYvciuzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIF4Z7Nevti6GVCp3vSl01gBU+gisJxh6KIXc
MJhqQnnWAiEAoNYTkhe0iemp5XNhlEqbCIEe7dpmCl1ieV2MvgzmI28=
-----END CERTIFICATE-----";

fn refused(source: &ApiSource, around: &Surroundings) -> String {
    Connection::of(source, around).unwrap_err().to_string()
}

#[test]
fn a_kubeconfig_is_read_with_its_current_context_or_the_named_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "config", &kubeconfig(&["one", "two"], "one"));
    let host = |context: Option<&str>| {
        let source = ApiSource::Kubeconfig {
            path: path.clone(),
            context: context.map(str::to_owned),
        };
        Connection::of(&source, &Surroundings::default())
            .unwrap()
            .host()
            .to_owned()
    };
    assert_eq!(host(None), "one.example:6443");
    assert_eq!(host(Some("two")), "two.example:6443");
}

#[test]
fn a_context_that_does_not_exist_is_refused_with_those_that_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "config", &kubeconfig(&["one", "two"], "one"));
    let source = ApiSource::Kubeconfig {
        path: path.clone(),
        context: Some("tow".into()),
    };
    assert_eq!(
        refused(&source, &Surroundings::default()),
        format!(
            "kubeconfig `{}`: context `tow` does not exist; it has `one`, `two`",
            path.display()
        )
    );
}

#[test]
fn a_kubeconfig_that_is_missing_or_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nothing");
    let source = ApiSource::Kubeconfig {
        path: missing.clone(),
        context: None,
    };
    let error = refused(&source, &Surroundings::default());
    assert!(
        error.starts_with(&format!(
            "the kubeconfig file `{}`: No such file",
            missing.display()
        )),
        "{error}"
    );
    let path = file(&folder, "config", "clusters: 7\n");
    let source = ApiSource::Kubeconfig {
        path: path.clone(),
        context: None,
    };
    let error = refused(&source, &Surroundings::default());
    assert!(
        error.starts_with(&format!("kubeconfig `{}`: ", path.display())),
        "{error}"
    );
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_kubeconfig_without_a_current_context_says_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "config", &kubeconfig(&["one"], ""));
    let source = ApiSource::Kubeconfig {
        path,
        context: None,
    };
    let error = refused(&source, &Surroundings::default());
    assert!(
        error.ends_with("no `current-context`; name one: `kubeconfig FILE CONTEXT`"),
        "{error}"
    );
}

#[test]
fn a_proxy_that_we_would_not_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = kubeconfig(&["one", "two"], "one").replace(
        "http://two.example:6443\"",
        "http://two.example:6443\", proxy-url: \"http://proxy:1\"",
    );
    let path = file(&folder, "config", &text);
    let source = |context: &str| ApiSource::Kubeconfig {
        path: path.clone(),
        context: Some(context.into()),
    };
    assert!(Connection::of(&source("one"), &Surroundings::default()).is_ok());
    let error = refused(&source("two"), &Surroundings::default());
    assert!(error.ends_with("`proxy-url` is not built yet"), "{error}");
}

#[test]
fn inside_a_cluster_the_service_account_is_used() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder, "token", "secret\n");
    file(&folder, "ca.crt", AUTHORITY);
    let mut around = Surroundings {
        service_host: Some("10.96.0.1".into()),
        service_port: Some("443".into()),
        account: folder.path().to_owned(),
        // Not looked at: it does not exist.
        kubeconfig: Some("/nowhere".into()),
        home: None,
    };
    let connection = Connection::of(&ApiSource::Default, &around).unwrap();
    assert_eq!(connection.host(), "10.96.0.1:443");
    assert_eq!(connection.bearer().unwrap(), "Bearer secret");
    around.service_host = Some("fd00::1".into());
    assert_eq!(
        Connection::of(&ApiSource::Default, &around).unwrap().host(),
        "[fd00::1]:443"
    );
    file(&folder, "token", "");
    let error = refused(&ApiSource::Default, &around);
    assert!(error.ends_with("token`: it is empty"), "{error}");
    file(&folder, "token", "secret");
    file(&folder, "ca.crt", "no certificate");
    assert!(refused(&ApiSource::Default, &around).starts_with("credentials for the API server"));
}

#[test]
fn outside_a_cluster_the_kubeconfig_of_the_user_is_used() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder, ".kube/config", &kubeconfig(&["one"], "one"));
    let mut around = Surroundings {
        home: Some(folder.path().to_owned()),
        ..Surroundings::default()
    };
    let host = |around: &Surroundings| {
        Connection::of(&ApiSource::Default, around)
            .unwrap()
            .host()
            .to_owned()
    };
    assert_eq!(host(&around), "one.example:6443");
    let first = file(&folder, "first", &kubeconfig(&["two"], "two"));
    let second = file(&folder, "second", &kubeconfig(&["one"], "one"));
    let missing = folder.path().join("missing");
    around.kubeconfig = Some(std::env::join_paths([&missing, &first, &second]).unwrap());
    assert_eq!(host(&around), "two.example:6443");
}

/// Case 257.
#[test]
fn with_no_cluster_and_no_kubeconfig_we_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let around = Surroundings {
        home: Some(folder.path().to_owned()),
        ..Surroundings::default()
    };
    let error = refused(&ApiSource::Default, &around);
    for part in [
        "not inside a cluster",
        ".kube/config`",
        "KUBECONFIG",
        "`manifests PATH`",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn an_endpoint_without_a_scheme_gets_the_one_that_its_credentials_ask_for() {
    let endpoint = |url: &str| ApiSource::Endpoint {
        url: url.into(),
        tls: None,
    };
    let around = Surroundings::default();
    let connection = Connection::of(&endpoint("localhost:8080"), &around).unwrap();
    assert_eq!(connection.config.cluster_url, "http://localhost:8080/");
    assert!(refused(&endpoint("ftp://a"), &around).contains("must be http or https"));
    let missing: PathBuf = "/nowhere/ca.crt".into();
    let tls = Some([missing.clone(), missing.clone(), missing]);
    let source = ApiSource::Endpoint {
        url: "a".into(),
        tls,
    };
    assert!(refused(&source, &around).starts_with("the certificate file `/nowhere/ca.crt`"));
}
