package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/resource"
)

// completeTimeout bounds what pressing Tab may take.
const completeTimeout = time.Second

// completeNames completes the names of a kind's resources.
func (a *app) completeNames(kind resource.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, words []string, begun string) ([]string, cobra.ShellCompDirective) {
		return a.namesLike(cmd.Context(), kind, words, "", begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeOne completes the name of one resource, and nothing after it.
func (a *app) completeOne(kind resource.Kind) cobra.CompletionFunc {
	complete := a.completeNames(kind)
	return func(cmd *cobra.Command, words []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(words) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, words, begun)
	}
}

// completeRefs completes KIND [NAME...] and KIND/NAME.
func (a *app) completeRefs(cmd *cobra.Command, words []string, begun string) ([]string, cobra.ShellCompDirective) {
	if singular, name, ok := strings.Cut(begun, "/"); ok {
		if kind, found := resource.KindNamed(singular); found {
			return a.namesLike(cmd.Context(), kind, nil, singular+"/", name), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if len(words) > 0 {
		if kind, found := resource.KindNamed(words[0]); found {
			return a.namesLike(cmd.Context(), kind, words[1:], "", begun), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, k := range kindWords() {
		if strings.HasPrefix(k, begun) {
			out = append(out, k)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// namesLike asks the server; where it doesn't answer there is nothing to complete.
func (a *app) namesLike(ctx context.Context, kind resource.Kind, not []string, prefix, begun string) []string {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	given := map[string]bool{}
	for _, w := range not {
		given[w] = true
	}
	var out []string
	_ = a.with(ctx, func(c *client) error {
		names, err := c.names(ctx, kind)
		for _, n := range names {
			if strings.HasPrefix(n, begun) && !given[n] {
				out = append(out, prefix+n)
			}
		}
		return err
	})
	return out
}

// completeFlag completes a flag with fixed words.
func completeFlag(cmd *cobra.Command, name string, words ...string) {
	mustComplete(cmd, name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// mustComplete registers how a flag is completed. That fails only for a flag
// that isn't there, which is a mistake in this program.
func mustComplete(cmd *cobra.Command, name string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
		panic(err)
	}
}
