//! Is it alive, is it ready, what are its figures. Public: nothing here names a person, a patient or a query.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use actix_web::web::Data;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::vault::Readiness;

use super::Api;

/// What the HTTP layer counts itself.
pub(super) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a quarter of a millisecond to eight seconds.
        let histogram = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        Self { requests: Family::default(), seconds: Family::new_with_constructor(histogram) }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

impl Metrics {
    /// Counts one request. The route is its template, so labels never hold an id; unknown methods share one label.
    pub(super) fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let method = if ["GET", "POST", "DELETE"].contains(&method) { method } else { "OTHER" };
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.seconds.get_or_create(&RouteLabels { route: route.to_owned() }).observe(took.as_secs_f64());
    }
}

/// Alive
///
/// 200 as long as the process can answer and its writer works.
#[utoipa::path(get, path = "/healthz", tag = "Operations", security(()), responses((status = 200, description = "Alive."), (status = 503, description = "The writer has ended.")))]
pub(super) async fn alive(api: Data<Api>) -> HttpResponse {
    let stopped = api.vault.counters().stopped.load(Ordering::Acquire);
    let status = if stopped { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    HttpResponse::build(status).insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8")).body(if stopped {
        "stopped\n"
    } else {
        "ok\n"
    })
}

/// Ready
#[utoipa::path(get, path = "/readyz", tag = "Operations", security(()), responses(
    (status = 200, description = "It works; status says whether something needs attention.", body = Readiness), (status = 503, description = "It does not work.", body = Readiness)))]
pub(super) async fn ready(api: Data<Api>) -> HttpResponse {
    let readiness = api.vault.readiness();
    let status = if readiness.status == "stopped" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    HttpResponse::build(status).json(readiness)
}

/// Figures for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "Operations", security(()), responses((status = 200, description = "OpenMetrics text.", body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(api: Data<Api>) -> HttpResponse {
    let mut registry = Registry::with_prefix("phivault");
    registry.register("http_requests", "Requests by method, route template and status", api.metrics.requests.clone());
    registry.register("http_request_seconds", "Time to answer by route template", api.metrics.seconds.clone());
    registry.register_collector(Box::new(Figures(api)));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
            .body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

/// The vault's own counters, read when asked.
struct Figures(Data<Api>);

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let vault = &self.0.vault;
        let counters = vault.counters();
        for (name, help, counter) in [
            ("entries", "Entries committed since the start", &counters.entries),
            ("commits", "Commits since the start", &counters.commits),
            ("refused", "Submissions refused as not acceptable", &counters.refused),
            ("duplicates", "Submissions that were in before", &counters.duplicates),
            ("busy", "Requests turned away because the queue was full", &counters.busy),
            ("denied", "Requests that the role of a valid token does not allow", &counters.denied),
            ("revealed", "Entries revealed", &counters.revealed),
            ("checkpoints", "Checkpoints signed", &counters.checkpoints),
            ("checkpoint_failures", "Checkpoints that could not be signed or locked", &counters.checkpoint_failures),
            ("integrity_failures", "Entries whose values did not agree with the ledger", &counters.integrity_failures),
            ("scrub_passes", "Times that all entries were gone through for damage", &counters.scrub_passes),
            (
                "logins_failed",
                "Logins refused for a wrong name, password or code, or for coming too soon after one",
                &counters.logins_failed,
            ),
            ("tls_handshakes_failed", "Connections whose TLS handshake failed", &counters.handshakes_failed),
            ("clock_jumps", "Times that the machine's clock was set", &counters.clock_jumps),
            ("untrusted_state", "State rows refused because they are not authentic", &counters.untrusted_state),
        ] {
            let value = ConstCounter::new(counter.load(Ordering::Relaxed));
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (name, help, number) in [
            ("ledger_size", "Entries in the ledger", signed(vault.ledger_size())),
            ("checkpoint_size", "Entries that the newest checkpoint covers", signed(vault.checkpoint().size)),
            (
                "witnessed_size",
                "Entries that enough witnesses cosigned; -1 if none are asked",
                vault.witnessed_size().map_or(-1, signed),
            ),
            ("queue_kib", "KiB waiting to be committed", signed(vault.queue_kib() as u64)),
            ("disk_bytes", "Bytes of the database", signed(vault.disk_bytes())),
            ("disk_free_bytes", "Bytes that are free on its disk", signed(vault.disk_free())),
            (
                "last_scrub_microseconds",
                "When all entries were last gone through for damage, since 1970",
                counters.last_scrub.load(Ordering::Relaxed),
            ),
            (
                "last_commit_microseconds",
                "Time of the last commit, since 1970",
                counters.last_commit.load(Ordering::Relaxed),
            ),
        ] {
            let value = ConstGauge::new(number);
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        self.tls(&mut encoder)
    }
}

impl Figures {
    /// When what TLS needs ends.
    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tls = self.0.tls.as_ref();
        for (name, help, end) in [
            (
                "tls_certificate_ends_seconds",
                "When the TLS certificate that is shown ends, since 1970",
                tls.map(|it| it.valid().end),
            ),
            (
                "tls_revocations_end_seconds",
                "When the first list of revoked client certificates is out of date, since 1970",
                tls.and_then(super::Tls::lists_end),
            ),
        ] {
            let Some(end) = end else { continue };
            let value = ConstGauge::new(end);
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        Ok(())
    }
}
