package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/lab/board"
)

// faultHelp says what each fault does.
const faultHelp = `slow[=DELAY]           every answer comes late (default 5s)
error                  HTTP 500; completion code FFh in IPMI
wrong-power-state      tells the opposite of the power's state
dropped-sessions       forgets each session after three requests
boot-override-ignored  takes boot overrides, shows them, boots as ever
media-ejects-itself    loses virtual media as the machine starts
dead                   takes connections and packets, never answers
unauthorized           refuses every password
hot                    the processor is over its critical temperature`

func newLabFaultCommand(a *app, f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "fault NAME FAULT [off]",
		Short: "Give a machine's BMC a fault, or take it away",
		Long: `Give a machine's BMC a fault of those that are seen in the field. It has it at
once and until it is taken away with "off", or the lab goes down.

` + faultHelp,
		Example: `  bedplate lab fault m1 slow=20s
  bedplate lab fault m1 slow off`,
		Args: args(cobra.RangeArgs(2, 3)),
		ValidArgsFunction: func(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			switch len(words) {
			case 0:
				return a.labMachines(cmd.Context(), f), cobra.ShellCompDirectiveNoFileComp
			case 1:
				var kinds []string
				for _, k := range board.FaultKinds {
					kinds = append(kinds, string(k))
				}
				return kinds, cobra.ShellCompDirectiveNoFileComp
			case 2:
				return []string{"off"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			on := len(words) == 2
			if !on && words[2] != "off" {
				return usageError{errors.New("the third word can only be off")}
			}
			fault, err := board.ParseFault(strings.TrimSpace(words[1]))
			if err != nil {
				return usageError{err}
			}
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			return remote.Fault(cmd.Context(), words[0], fault.String(), on)
		},
	}
}
