//! Options: what is read, what is wrong.

use crate::corefile::parser::parse_text;
use crate::plugin::configure::configure;
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::k8s_external::config::ExternalConfig;
use crate::wire::name::Name;

/// What the faults of a block say, each with its line and column.
fn faults(block: &str) -> Vec<String> {
    let (corefile, mut faults) = parse_text(block);
    configure(&corefile, &mut faults);
    let faults = faults.sorted().into_iter();
    faults
        .map(|fault| format!("{} {}", corefile.place(fault.span), fault.message))
        .collect()
}

fn config(lines: &str) -> ExternalConfig {
    let (corefile, mut faults) =
        parse_text(&format!(". {{\nkubernetes cluster.local\n{lines}\n}}\n"));
    let mut blocks = configure(&corefile, &mut faults);
    assert_eq!(faults.error_count(), 0, "{faults:?}");
    let mut plugins = blocks.remove(0).plugins.into_iter();
    let (_, config) = plugins
        .find(|(spec, _)| spec.name == "k8s_external")
        .expect("it is there");
    let config: Box<dyn std::any::Any> = config;
    *config.downcast().expect("our own")
}

/// Case 258.
#[test]
fn a_block_without_kubernetes_is_a_fault() {
    assert_eq!(
        faults(". {\n  k8s_external example.org\n}\n"),
        ["Corefile:2:3 `k8s_external` needs `kubernetes` in the same server block"]
    );
    // One in another block does not help.
    let two = ". {\n  kubernetes cluster.local\n}\nexample.org {\n  k8s_external\n}\n";
    assert_eq!(
        faults(two),
        ["Corefile:5:3 `k8s_external` needs `kubernetes` in the same server block"]
    );
}

/// Case 258.
#[test]
fn a_wrong_option_is_a_fault_with_its_place() {
    let long = "a".repeat(64);
    for (option, expected) in [
        ("ttl 9999", "4:5 `9999` is not a TTL in seconds, 0 to 3600"),
        ("ttl -1", "4:5 `-1` is not a TTL in seconds, 0 to 3600"),
        ("ttl x", "4:5 `x` is not a TTL in seconds, 0 to 3600"),
        ("ttl", "4:1 `ttl` needs a TTL in seconds, 0 to 3600"),
        ("apex", "4:1 `apex` needs a label such as dns"),
        ("apex a.b", "4:6 `a.b` is not one label"),
        ("apex .", "4:6 `.` is not one label"),
        (
            &format!("apex {long}"),
            &format!("4:6 `{long}` is not one label"),
        ),
        ("headless x", "4:10 `headless` takes no `x`"),
        ("headles", "4:1 `k8s_external` has no option `headles`"),
        ("ttl 5 6", "4:7 `6` is not used"),
        ("apex a b", "4:8 `b` is not used"),
    ] {
        let block = format!(". {{\nkubernetes cluster.local\nk8s_external {{\n{option}\n}}\n}}\n");
        assert_eq!(faults(&block), [format!("Corefile:{expected}")], "{option}");
    }
}

#[test]
fn a_zone_that_leaves_no_room_is_a_fault_and_one_for_ptr_alone_a_warning() {
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(60), "b".repeat(56));
    let faults_of = |zones: &str| {
        faults(&format!(
            ". {{\nkubernetes cluster.local\nk8s_external {zones}\n}}\n"
        ))
    };
    assert_eq!(
        faults_of(&long),
        [format!(
            "Corefile:3:1 `{long}.` leaves no room for the name of its name server"
        )]
    );
    assert_eq!(
        faults_of("in-addr.arpa"),
        ["Corefile:3:1 `k8s_external` has reverse zones only"]
    );
    assert!(faults_of("in-addr.arpa example.org").is_empty());
}

#[test]
fn options_are_read_and_directives_add_up() {
    let zones = |config: &ExternalConfig| -> Vec<String> {
        config.zones.iter().map(Name::to_string).collect()
    };
    let plain = config("k8s_external");
    assert_eq!(zones(&plain), ["."]);
    assert_eq!((plain.ttl, &*plain.apex, plain.headless), (5, "dns", false));
    assert_eq!(plain.fallthrough, None);
    let all =
        config("k8s_external Example.org 10.0.0.0/8 {\nttl 42\napex NSX\nheadless\nfallthrough\n}");
    assert_eq!(zones(&all), ["example.org.", "10.in-addr.arpa."]);
    assert_eq!((all.ttl, &*all.apex, all.headless), (42, "nsx", true));
    assert_eq!(all.fallthrough, Some(Fallthrough::everywhere()));
    let twice = config("k8s_external a.org {\nheadless\nttl 1\n}\nk8s_external b.org {\nttl 2\n}");
    assert_eq!(zones(&twice), ["b.org."]);
    assert_eq!((twice.ttl, twice.headless), (2, true));
    assert_eq!(
        faults(". {\nkubernetes cluster.local\nk8s_external a.org\nk8s_external b.org\n}\n"),
        ["Corefile:3:1 `k8s_external` stands again below"]
    );
}
