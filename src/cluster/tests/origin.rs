//! Where endpoints are: topology zones.

use super::*;

/// A slice of the Service `web` with an endpoint in this zone.
fn slice_in(zone: &str, version: &str) -> Object {
    let Object::EndpointSlice(mut slice) = slice("web-1", "web", version, &["10.1.0.1"]) else {
        unreachable!("it is one");
    };
    slice.endpoints[0].zone = Some(zone.into());
    Object::EndpointSlice(slice)
}

#[test]
fn zones_are_kept_on_demand_only() {
    for zones in [false, true] {
        let keep = Keep {
            zones,
            ..Keep::default()
        };
        let cluster = Cluster::new(&ALL, keep);
        let in_zone = || {
            let view = cluster.table.service(b"\x03web\x04shop").expect("a view");
            view.slices[0].places_in_zone(b"\x01a").count() == 1
        };
        cluster.applied(slice_in("A", "1"));
        assert_eq!(in_zone(), zones);
        // Without them, a change of zone changes nothing.
        cluster.serial.reset();
        cluster.applied(slice_in("b", "2"));
        assert_eq!((in_zone(), cluster.serial() != 0), (false, zones));
    }
}
