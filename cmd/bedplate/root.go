package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/resource"
)

// The groups of commands in the help.
const (
	groupWork   = "work"
	groupKinds  = "kinds"
	groupServer = "server"
)

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "bedplate",
		Short: "Turn powered-off servers into running platforms",
		Long: `Bedplate boots servers from the network into an in-memory agent, and takes them
through workflows that put an operating system on their disks.

` + "`bedplate serve`" + ` runs the server. All other commands talk to one: which one, and
with which token, is in ~/.config/bedplate/config.yaml, in the environment
(BEDPLATE_SERVER, BEDPLATE_TOKEN), or given by flags.`,
		Example: `  bedplate apply -f rack.yaml
  bedplate machine list
  bedplate machine follow web-1 --until active`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddGroup(
		&cobra.Group{ID: groupWork, Title: "Everyday commands:"},
		&cobra.Group{ID: groupKinds, Title: "Commands by kind of resource:"},
		&cobra.Group{ID: groupServer, Title: "Server and lab:"},
	)
	flags := root.PersistentFlags()
	flags.StringVar(&a.flags.config, "config", "", "the client's configuration `file` (default $BEDPLATE_CONFIG or ~/.config/bedplate/config.yaml)")
	flags.StringVar(&a.flags.server, "server", "", "`host[:port]` of the server's API (default $BEDPLATE_SERVER or from the configuration)")
	flags.StringVar(&a.flags.token, "token", "", "API `token`; others can see it in the list of processes: better $BEDPLATE_TOKEN or the configuration")
	flags.StringVar(&a.flags.ca, "ca", "", "the server's CA: a `file` in PEM, or sha256: and its digest")
	flags.DurationVar(&a.flags.timeout, "request-timeout", 30*time.Second, "how long a single request may take")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(usageError{err}, fmt.Sprintf("`%s --help` lists the flags", cmd.CommandPath()))
	})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupWork, newApplyCommand(a), newImportListCommand(a), newGetCommand(a), newListCommand(a), newDescribeCommand(a), newDeleteCommand(a), newWatchCommand(a))
	add(groupKinds, newMachineCommand(a), newWorkflowCommand(a), newTemplateCommand(a), newInstanceCommand(a), newStackCommand(a), newImageCommand(a),
		newNetworkCommand(a), newPoolCommand(a), newRuleCommand(a), newJobCommand(a), newBMCCommand(a), newTokenCommand(a), newSecretCommand(a), newEventCommand(a))
	root.SetHelpCommandGroupID(groupServer)
	root.SetCompletionCommandGroupID(groupServer)
	add(groupServer, newServeCommand(a), newDemoCommand(a), newAgentOSCommand(a), newDebianImageCommand(a), newLabCommand(a), newNodeConfigCommand(a), newVersionCommand(a))
	root.AddCommand(newDocsCommand(a))
	checkSubcommands(root)
	return root
}

// checkSubcommands makes `bedplate machine lsit` an error with a suggestion:
// cobra does that for the root only, and shows the help for others.
func checkSubcommands(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		checkSubcommands(c)
	}
	if cmd.Runnable() || !cmd.HasSubCommands() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if len(words) == 0 {
			return cmd.Help()
		}
		err := usageError{fmt.Errorf("unknown command %q for %q", words[0], cmd.CommandPath())}
		if near := cmd.SuggestionsFor(words[0]); len(near) > 0 {
			return hint(err, "did you mean "+strings.Join(near, " or ")+"?")
		}
		return hint(err, fmt.Sprintf("`%s --help` lists the commands", cmd.CommandPath()))
	}
	cmd.SuggestionsMinimumDistance = 2
}

// mustKind returns a kind that there is.
func mustKind(name string) resource.Kind {
	k, ok := resource.KindNamed(name)
	if !ok {
		panic("no kind " + name)
	}
	return k
}
