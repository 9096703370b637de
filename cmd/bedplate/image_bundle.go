package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/images/source"
)

func newImageBundleCommand(a *app) *cobra.Command {
	im := &importer{app: a}
	var out string
	cmd := &cobra.Command{
		Use:   "bundle NAME[@VERSION|@CHANNEL] -o FILE",
		Short: "Put a release of the catalogue into one file, for where there is no network",
		Long: `Fetch a release of the image catalogue, check it, and write it into one file with
checksums, signatures and keys. It needs no server. "bedplate image import NAME
--bundle FILE" makes every check again, by the catalogue that is there.`,
		Example: "  bedplate image bundle flatcar -o flatcar.tar\n  bedplate image import flatcar --bundle flatcar.tar",
		Args:    args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(words) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return catalogNames(im.from.catalog), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			if out == "" {
				return usageError{errors.New("give the bundle's file with -o")}
			}
			if err := im.check(words[0]); err != nil {
				return usageError{err}
			}
			return im.bundle(cmd.Context(), words[0], out)
		},
	}
	im.releaseFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&im.spec.Architecture, "arch", "", "x86_64 or aarch64")
	flags.StringVarP(&out, "output", "o", "", "`file` to write")
	flags.BoolVar(&im.from.signed, "require-signature", false, "refuse what its publisher hasn't signed")
	completeFlag(cmd, "arch", "x86_64", "aarch64")
	return cmd
}

// bundle writes the file under a temporary name, so that it is whole or not there.
func (im *importer) bundle(ctx context.Context, text, out string) error {
	got, err := im.acquire(ctx, text)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(out), ".bundle-")
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	defer os.Remove(temp.Name()) // fails, rightly, once renamed
	err = source.WriteBundle(temp, got.release, got.files, im.now())
	if err == nil {
		err = temp.Sync()
	}
	info, statErr := temp.Stat()
	if err := errors.Join(err, statErr, temp.Chmod(0o644), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), out); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	r := got.release
	fprintf(im.stdout, "%s has %s@%s/%s for %s: %s\n", out, r.Entry.Name, r.Channel, r.Version, orElse(r.Arch, "x86_64"), table.Bytes(info.Size()))
	return got.fetcher.Forget(got.files)
}
