//! State that every command needs: the printer, the directories, and connections to the daemon.

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

/// One invocation of the program.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) printer: Printer,
    pub(crate) layout: Layout,
    /// Whether the daemon's version was checked already.
    checked: Cell<bool>,
}

impl Context {
    /// Resolves the state directory from the environment.
    pub(crate) fn new(printer: Printer) -> std::result::Result<Self, Failure> {
        let uid = rustix::process::getuid().as_raw();
        let layout = Layout::resolve(|key| std::env::var_os(key), uid).ok_or_else(|| {
            Failure::new(Code::Unavailable, "cannot tell where banger's files are: neither HOME nor BANGER_HOME is set")
                .hint("set HOME to an absolute path")
        })?;
        Ok(Self { printer, layout, checked: Cell::new(false) })
    }

    /// Connects to the daemon, and starts it if none runs. Each caller gets a connection of its own, so that the end of
    /// one operation does not end another.
    pub(crate) async fn daemon(&self) -> Result<Daemon> {
        // A daemon that was just killed or replaced still accepts connections, but answers none. The first request
        // changes nothing, so it is safe to repeat it with the next daemon.
        match self.connect_checked().await {
            Err(Error::Failed(failure)) if failure.code == Code::Unavailable => self.connect_checked().await,
            connected => connected,
        }
    }

    async fn connect_checked(&self) -> Result<Daemon> {
        let stream = connect::connect(&self.layout).await?;
        let mut daemon = Daemon::open(stream, self.layout.daemon_log()).await?;
        if !self.checked.get() {
            let warning = daemon.check_version().await?;
            self.checked.set(true);
            if let Some(warning) = warning {
                self.printer.note(&format!("warning: {warning}"));
            }
        }
        Ok(daemon)
    }

    /// Connects to the running daemon, whatever its version; none if no daemon runs.
    pub(crate) async fn running_daemon(&self) -> Result<Option<Daemon>> {
        match connect::find(&self.layout).await? {
            Some(stream) => Daemon::open(stream, self.layout.daemon_log()).await.map(Some),
            None => Ok(None),
        }
    }
}
