package action

import "time"

func rescue() []Action {
	return []Action{
		{
			Name: "rescue.ssh",
			Doc:  "Lets people with the given keys into the agent's system by SSH, as root, with busybox as shell and tools: terminal, commands, files by SFTP; no forwarding. The host key is of this boot; its fingerprint is the first line of the step's log. The step succeeds when its time is over; cancel the workflow to end it. Either way every process of every session ends with it.",
			Inputs: []Input{
				{Name: "authorized_keys", Type: Strings, Doc: "OpenSSH public keys, such as `ssh-ed25519 AAAA… name`. Keys with options are refused. Without any, nothing listens."},
				{Name: "port", Type: Int, Default: "22", Doc: "Port to listen on."},
				{Name: "timeout", Type: String, Default: "12h", Doc: "How long it lasts, such as `4h`; at most a week."},
				{Name: "console", Type: Bool, Default: "false", Doc: "A shell without a password on the machine's own consoles as well: whoever sits there is root."},
			},
			Outputs: []Output{
				{Name: "host_key", Type: String, Doc: "Fingerprint of the host key."},
				{Name: "sessions", Type: Int, Doc: "Number of sessions there were."},
			},
			Errors:         []string{"A key can't be read: which one is named.", "The port is taken.", "The agent's system was built without a shell."},
			Idempotent:     true,
			DefaultTimeout: 8 * 24 * time.Hour,
		},
	}
}
