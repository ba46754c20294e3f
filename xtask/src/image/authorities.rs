//! The certificate authorities in the image, as the PEM file where OpenSSL, Go and `rustls-native-certs` look first.
//!
//! Mozilla's list, at the version that `Cargo.lock` names: an image is then the same whatever the build machine trusts.
//! They stand in a file, not in the program, so that a mount can replace them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// Octets of base64 on a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

/// Where they lie in the image.
pub const PATH: &str = "etc/ssl/certs/ca-certificates.crt";

/// All of them.
pub fn pem() -> String {
    let mut text = String::new();
    for certificate in TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

    #[test]
    fn a_tls_client_takes_every_authority_from_the_file() {
        let text = super::pem();
        assert!(text.lines().all(|line| line.len() <= super::LINE));
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let found = found.expect("PEM");
        assert_eq!(found, TLS_SERVER_ROOT_CERTS);
        let mut store = RootCertStore::empty();
        let (taken, refused) = store.add_parsable_certificates(found);
        assert_eq!((taken, refused), (TLS_SERVER_ROOT_CERTS.len(), 0));
    }
}
