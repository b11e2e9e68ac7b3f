//! The whole route table.

use actix_web::web::{ServiceConfig, delete, get, post, resource};

use super::{entries, frame, health, keys, ledger, openapi, reports, reveal, tokens};

/// Registers every route. A known path with another method answers 405.
pub(super) fn all(config: &mut ServiceConfig) {
    let mut add = |path: &str, routes: Vec<actix_web::Route>| {
        let resource = routes.into_iter().fold(resource(path.to_owned()), actix_web::Resource::route);
        config.service(resource.default_service(actix_web::web::to(frame::wrong_method)));
    };
    add("/v1/entries", vec![post().to(entries::submit), get().to(entries::search)]);
    add("/v1/entries/batch", vec![post().to(entries::batch)]);
    add("/v1/entries/query", vec![post().to(entries::query)]);
    add("/v1/entries/{id}", vec![get().to(entries::entry)]);
    add("/v1/entries/{id}/reveal", vec![post().to(reveal::one)]);
    add("/v1/entries/{id}/proof", vec![get().to(ledger::proof)]);
    add("/v1/reveal", vec![post().to(reveal::many)]);
    add("/v1/reports/access", vec![get().to(reports::access)]);
    add("/v1/reasons", vec![get().to(reports::reasons)]);
    add("/v1/tokens", vec![get().to(tokens::list), post().to(tokens::create)]);
    add("/v1/tokens/{id}", vec![delete().to(tokens::revoke)]);
    add("/v1/keys", vec![get().to(keys::list)]);
    add("/v1/keys/rotate", vec![post().to(keys::rotate)]);
    add("/checkpoint", vec![get().to(ledger::checkpoint)]);
    add("/healthz", vec![get().to(health::alive)]);
    add("/readyz", vec![get().to(health::ready)]);
    add("/metrics", vec![get().to(health::metrics)]);
    add("/openapi.json", vec![get().to(openapi::json)]);
    add("/docs", vec![get().to(openapi::page)]);
    add("/docs/docs.css", vec![get().to(openapi::style)]);
    add("/docs/docs.js", vec![get().to(openapi::script)]);
}
