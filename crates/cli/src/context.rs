//! What every command needs: a way to talk, and a way to the daemon.

use crate::{
    daemon::{Daemon, connect},
    exit::{Error, Result},
    output::printer::Printer,
};
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
};
use std::cell::Cell;

/// One invocation.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) printer: Printer,
    pub(crate) layout: Layout,
    /// The daemon's version was looked at already.
    checked: Cell<bool>,
}

impl Context {
    /// Finds out from the environment which state directory is meant.
    pub(crate) fn new(printer: Printer) -> std::result::Result<Self, Failure> {
        let uid = rustix::process::getuid().as_raw();
        let layout = Layout::resolve(|key| std::env::var_os(key), uid).ok_or_else(|| {
            Failure::new(Code::Unavailable, "cannot tell where banger's files are: neither HOME nor BANGER_HOME is set")
                .hint("set HOME to an absolute path")
        })?;
        Ok(Self { printer, layout, checked: Cell::new(false) })
    }

    /// A connection to the daemon, which is started when there is none. Each caller gets its own, so that one
    /// operation ends without ending another.
    pub(crate) async fn daemon(&self) -> Result<Daemon> {
        // A daemon that was killed or replaced this very moment still takes connections and answers none: the first
        // question changes nothing, so it may be asked again, of the next daemon.
        match self.greet().await {
            Err(Error::Failed(failure)) if failure.code == Code::Unavailable => self.greet().await,
            greeted => greeted,
        }
    }

    async fn greet(&self) -> Result<Daemon> {
        let stream = connect::connect(&self.layout).await?;
        let mut daemon = Daemon::open(stream, self.layout.daemon_log()).await?;
        if !self.checked.get() {
            let warning = daemon.check_version().await?;
            self.checked.set(true);
            if let Some(warning) = warning {
                self.printer.talk(&format!("warning: {warning}"));
            }
        }
        Ok(daemon)
    }

    /// A connection to the daemon that runs now, whatever its version; none when none does.
    pub(crate) async fn running_daemon(&self) -> Result<Option<Daemon>> {
        match connect::find(&self.layout).await? {
            Some(stream) => Daemon::open(stream, self.layout.daemon_log()).await.map(Some),
            None => Ok(None),
        }
    }
}
