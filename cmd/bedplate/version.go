package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

// programVersion is the version of this program; from the build's revision if
// the linker has set none.
func programVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

func newVersionCommand(a *app) *cobra.Command {
	withServer := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program, and of the server",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(a.stdout, "bedplate %s %s %s/%s\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			if !withServer {
				return nil
			}
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				info, err := pb.NewSystemServiceClient(c.conn).GetServerInfo(ctx, &pb.GetServerInfoRequest{})
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "server   %s, up %s; you are %s with the role %s\n",
					info.GetVersion(), a.age(info.GetStartTime()), info.GetToken(), resource.EnumName(info.GetRole()))
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&withServer, "with-server", false, "ask the server for its version, and who you are to it")
	return cmd
}
