//! The whole route table.

use actix_web::web::{ServiceConfig, delete, get, post, resource};

use super::{
    admin, entries, files, frame, health, history, keys, ledger, login, openapi, reports, restores, retention, reveal,
    tokens,
};

/// Registers every route. A known path with another method answers 405.
pub(super) fn all(config: &mut ServiceConfig) {
    let mut add = |path: &str, allow: &'static str, routes: Vec<actix_web::Route>| {
        let resource = routes.into_iter().fold(resource(path.to_owned()), actix_web::Resource::route);
        let wrong_method = actix_web::web::to(move || async move { frame::wrong_method(allow) });
        config.service(resource.default_service(wrong_method));
    };
    add("/v1/entries", "POST, GET", vec![post().to(entries::submit), get().to(entries::search)]);
    add("/v1/entries/batch", "POST", vec![post().to(entries::batch)]);
    add("/v1/entries/query", "POST", vec![post().to(entries::query)]);
    add("/v1/entries/trail", "POST", vec![post().to(ledger::trail)]);
    add("/v1/entries/{id}", "GET", vec![get().to(entries::entry)]);
    add("/v1/entries/{id}/reveal", "POST", vec![post().to(reveal::one)]);
    add("/v1/entries/{id}/proof", "GET", vec![get().to(ledger::proof)]);
    add("/v1/reveal", "POST", vec![post().to(reveal::many)]);
    add("/v1/records/{type}/{id}/history", "GET", vec![get().to(history::history)]);
    add("/v1/records/{type}/{id}/state", "GET", vec![get().to(history::state)]);
    add("/v1/records/{type}/{id}/diff", "GET", vec![get().to(history::diff)]);
    add("/v1/records/{type}/{id}/fields/{field}", "GET", vec![get().to(history::field)]);
    add("/v1/records/{type}/{id}/continuity", "GET", vec![get().to(history::continuity)]);
    add("/v1/records/{type}/{id}/restore", "POST", vec![post().to(restores::plan)]);
    add("/v1/restores", "GET", vec![get().to(restores::list)]);
    add("/v1/restores/{id}", "GET", vec![get().to(restores::fetch)]);
    add("/v1/restores/{id}/approve", "POST", vec![post().to(restores::approve)]);
    add("/v1/restores/{id}/cancel", "POST", vec![post().to(restores::cancel)]);
    add("/v1/restores/{id}/confirm", "POST", vec![post().to(restores::confirm)]);
    add("/v1/reports/access", "GET", vec![get().to(reports::access)]);
    add("/v1/reports/breach-scope", "GET", vec![get().to(reports::breach_scope)]);
    add("/v1/reports", "GET, POST", vec![get().to(files::list), post().to(files::make)]);
    add("/v1/reports/{id}", "GET", vec![get().to(files::fetch)]);
    add("/v1/reports/{id}/manifest", "GET", vec![get().to(files::manifest)]);
    add("/v1/reviews", "POST", vec![post().to(files::review)]);
    add("/v1/reasons", "GET", vec![get().to(reports::reasons)]);
    add("/v1/tokens", "GET, POST", vec![get().to(tokens::list), post().to(tokens::create)]);
    add("/v1/tokens/{id}", "DELETE", vec![delete().to(tokens::revoke)]);
    add("/v1/login", "POST", vec![post().to(login::log_in)]);
    add("/v1/login/enrol", "POST", vec![post().to(login::enrol)]);
    add("/v1/logout", "POST", vec![post().to(login::log_out)]);
    add("/v1/session", "GET", vec![get().to(login::session)]);
    add("/v1/keys", "GET", vec![get().to(keys::list)]);
    add("/v1/keys/rotate", "POST", vec![post().to(keys::rotate)]);
    add("/v1/keys/re-encrypt", "POST, GET", vec![post().to(keys::reencrypt), get().to(keys::reencryption)]);
    add("/v1/keys/rotate-index", "POST", vec![post().to(keys::rotate_index)]);
    add("/v1/keys/rotate-state", "POST", vec![post().to(keys::rotate_state)]);
    add("/v1/admin/operations", "POST", vec![post().to(admin::ask)]);
    add("/v1/approvals", "GET", vec![get().to(admin::list)]);
    add("/v1/approvals/{id}/approve", "POST", vec![post().to(admin::approve)]);
    add("/v1/approvals/{id}/cancel", "POST", vec![post().to(admin::cancel)]);
    add("/v1/retention/plan", "GET", vec![get().to(retention::plan)]);
    add("/v1/retention/certificates/{id}", "GET", vec![get().to(retention::certificate)]);
    add("/v1/holds", "GET, POST", vec![get().to(retention::holds), post().to(retention::place)]);
    add("/v1/holds/{id}/lift", "POST", vec![post().to(retention::lift)]);
    add("/v1/keys/rotate-signing", "POST", vec![post().to(keys::rotate_signing)]);
    add("/v1/entries/{id}/disclose", "POST", vec![post().to(reveal::disclose)]);
    add("/v1/entries/{id}/leaf", "GET", vec![get().to(ledger::leaf)]);
    add("/v1/ledger/consistency", "GET", vec![get().to(ledger::consistency)]);
    add("/checkpoint", "GET", vec![get().to(ledger::checkpoint)]);
    add("/tile/{tile:.*}", "GET", vec![get().to(ledger::tile)]);
    add("/healthz", "GET", vec![get().to(health::alive)]);
    add("/readyz", "GET", vec![get().to(health::ready)]);
    add("/metrics", "GET", vec![get().to(health::metrics)]);
    add("/openapi.json", "GET", vec![get().to(openapi::json)]);
    add("/docs", "GET", vec![get().to(openapi::page)]);
    add("/docs/docs.css", "GET", vec![get().to(openapi::style)]);
    add("/docs/docs.js", "GET", vec![get().to(openapi::script)]);
}
