//! Who judges client certificates: authorities, and what they have revoked. What would shut out every client, or let in more than the
//! authorities' own, is refused when it is read, by name.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::BasicConstraints;

use super::{TlsError, certificates, pem, seconds};

const AUTHORITIES: &str = "server.tls_client_authorities";
const LISTS: &str = "server.tls_client_revocations";

/// What judges client certificates, and when its first list is out of date.
pub(super) fn verifier(
    authorities: &Path,
    revocations: Option<&Path>,
) -> Result<(Arc<dyn ClientCertVerifier>, Option<i64>), TlsError> {
    let wrong = |error: &dyn std::fmt::Display| told(authorities, AUTHORITIES, error);
    let (mut roots, mut read) = (RootCertStore::empty(), Vec::new());
    for it in certificates(authorities, AUTHORITIES)? {
        read.push(authority(&it).map_err(|what| wrong(&what))?);
        roots.add(it).map_err(|error| wrong(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let Some(path) = revocations else {
        return Ok((builder.build().map_err(|error| wrong(&error))?, None));
    };
    let (lists, end) = lists(path, read)?;
    // A list that is out of date could hide the newest revocation.
    let verifier = builder.with_crls(lists).enforce_revocation_expiration().build();
    Ok((verifier.map_err(|error| told(path, LISTS, &error))?, Some(end)))
}

fn told(path: &Path, setting: &str, what: &dyn std::fmt::Display) -> TlsError {
    TlsError(format!("{} ({setting}): {what}.", path.display()))
}

/// A trust anchor is believed whatever it is, so a client's certificate among them would vouch for others (RFC 5280, section 4.2.1.9).
fn authority(der: &[u8]) -> Result<Certificate, String> {
    let read = Certificate::from_der(der).map_err(|error| format!("a certificate does not read ({error})"))?;
    let it = read.tbs_certificate();
    let is_authority = it.get_extension::<BasicConstraints>().ok().flatten().is_some_and(|(_, it)| it.ca);
    // Before version 3 no certificate could say so.
    if is_authority || it.version() != Version::V3 {
        return Ok(read);
    }
    Err(format!("the certificate of {} is no authority's (basic constraints): remove it", it.subject()))
}

/// The lists of what was revoked, and when the first of them is out of date. There is one of each authority and none of another, all in
/// date, or the clients of an authority would all be refused.
fn lists(
    path: &Path,
    mut left: Vec<Certificate>,
) -> Result<(Vec<CertificateRevocationListDer<'static>>, i64), TlsError> {
    let wrong = |what: String| told(path, LISTS, &what);
    let name = |it: &Certificate| it.tbs_certificate().subject().clone();
    // One that was issued anew with its key is still one.
    left.dedup_by(|one, other| name(one) == name(other) && key(one) == key(other));
    if let Some(twice) = left.iter().enumerate().find(|(n, it)| left[..*n].iter().any(|other| name(other) == name(it)))
    {
        return Err(wrong(format!(
            "two authorities bear the name {}, and lists are told apart by it: clients of one would be refused. Remove the authority that is no longer used, or do without lists until then",
            name(twice.1)
        )));
    }
    let lists = pem::<CertificateRevocationListDer<'static>>(path, LISTS, "X509 CRL")?;
    let (now, mut end) = (chrono::Utc::now().timestamp(), i64::MAX);
    for list in &lists {
        let read: CertificateList =
            CertificateList::from_der(list).map_err(|error| wrong(format!("a list does not read ({error})")))?;
        let issuer = &read.tbs_cert_list.issuer;
        let place = left.iter().position(|it| name(it) == *issuer).ok_or_else(|| {
            wrong(format!("the list of {issuer} is there twice, or is of no authority that clients are trusted by"))
        })?;
        if !is_signed_by(list, &read, &left.remove(place)) {
            return Err(wrong(format!(
                "the list of {issuer} is not signed with the key of the authority of that name in {AUTHORITIES}: all its clients would be refused"
            )));
        }
        end = end.min(read.tbs_cert_list.next_update.and_then(seconds).unwrap_or(0));
        if end <= now {
            return Err(wrong(format!("the list of {issuer} is out of date: fetch its next one")));
        }
    }
    match left.first() {
        None => Ok((lists, end)),
        Some(it) => Err(wrong(format!("there is no list of {}, so all its clients would be refused", name(it)))),
    }
}

/// Each handshake checks this again; here only what could never hold is found.
fn is_signed_by(list: &[u8], read: &CertificateList, authority: &Certificate) -> bool {
    let Ok(signed) = read.tbs_cert_list.to_der() else { return false };
    // What is not written in the one way of DER cannot be judged from what was read.
    let is_whole = read.to_der().is_ok_and(|it| it == list);
    let algorithms = default_provider().signature_verification_algorithms.all;
    let signature = read.signature.raw_bytes();
    !is_whole || algorithms.iter().any(|it| it.verify_signature(key(authority), &signed, signature).is_ok())
}

fn key(it: &Certificate) -> &[u8] {
    it.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes()
}
