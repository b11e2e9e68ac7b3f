//! A key in a hardware security module, reached through PKCS #11 (OASIS PKCS #11 3.0): the module computes HMAC-SHA-256 over a fixed
//! label with a secret key that never leaves it, and that is what opens the keyring. Built with the feature `pkcs11`.

use std::path::PathBuf;

use crate::config::Pkcs11;
use crate::vault::Unlock;

/// Which key of which token.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "pkcs11")]
pub struct Pkcs11Args {
    /// The PKCS #11 library of a security module that holds the key, instead of a passphrase
    #[arg(long, value_name = "FILE", requires_all = ["pkcs11_token", "pkcs11_key", "pkcs11_pin_file"])]
    pkcs11_module: Option<PathBuf>,

    /// The label of the token
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    pkcs11_token: Option<String>,

    /// The label of a generic secret key of 32 bytes that may sign (HMAC-SHA-256)
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    pkcs11_key: Option<String>,

    /// A file with the user's PIN (readable by its owner only)
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pkcs11_pin_file: Option<PathBuf>,
}

impl Pkcs11Args {
    /// As the settings have it, if it is given.
    pub fn given(&self) -> Option<Pkcs11> {
        let Self { pkcs11_module, pkcs11_token, pkcs11_key, pkcs11_pin_file } = self.clone();
        Some(Pkcs11 { module: pkcs11_module?, token: pkcs11_token?, key: pkcs11_key?, pin_file: pkcs11_pin_file? })
    }
}

/// Asks the module.
///
/// # Errors
/// One sentence with the remedy; nothing of the PIN is in it.
#[cfg(feature = "pkcs11")]
pub fn unlock(wanted: &Pkcs11) -> anyhow::Result<Unlock> {
    use anyhow::{Context as _, anyhow, bail};
    use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
    use cryptoki::mechanism::Mechanism;
    use cryptoki::object::{Attribute, ObjectClass};
    use cryptoki::session::UserType;
    use cryptoki::types::AuthPin;

    let Pkcs11 { module, token, key, pin_file } = wanted;
    let pin = crate::keyfile::read_private(pin_file, "PIN file")?;
    let pin = AuthPin::from(pin.trim_end().to_owned());
    let client = Module::new(module).with_context(|| format!("The library {} cannot be loaded", module.display()))?;
    client
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .with_context(|| format!("The library {} cannot be started", module.display()))?;
    let named =
        |slot: &cryptoki::slot::Slot| client.get_token_info(*slot).is_ok_and(|it| it.label().trim_end() == token);
    let slots = client.get_slots_with_token().context("The tokens of the module cannot be listed")?;
    let slot = slots.into_iter().find(named).ok_or_else(|| anyhow!("The module has no token labelled {token:?}."))?;
    let session = client.open_ro_session(slot).with_context(|| format!("The token {token:?} cannot be used"))?;
    session
        .login(UserType::User, Some(&pin))
        .with_context(|| format!("The token {token:?} does not accept the PIN in {}", pin_file.display()))?;
    let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(key.clone().into_bytes())];
    let found = session.find_objects(&template).context("The keys of the token cannot be listed")?;
    let [handle] = found[..] else {
        bail!("The token {token:?} has {} secret keys labelled {key:?}; exactly one is needed.", found.len())
    };
    let made = session.sign(&Mechanism::Sha256Hmac, handle, Unlock::MODULE_MESSAGE).with_context(|| {
        format!("The key {key:?} cannot compute HMAC-SHA-256; make a generic secret key that may sign")
    })?;
    let made = zeroize::Zeroizing::new(made);
    Unlock::of_key(&made).ok_or_else(|| anyhow!("The module did not answer with 32 bytes."))
}

/// Says that this build has no PKCS #11.
///
/// # Errors
/// Always.
#[cfg(not(feature = "pkcs11"))]
pub fn unlock(_wanted: &Pkcs11) -> anyhow::Result<Unlock> {
    anyhow::bail!("This phivault was built without PKCS #11: cargo build --release --features pkcs11")
}
