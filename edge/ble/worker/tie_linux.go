package worker

import (
	"os/exec"
	"syscall"
)

// tie has the kernel end the process with the agent, whatever becomes of that.
func tie(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
