package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/resource"
)

// printMessages writes answers that are no resources: as the table, or as JSON
// or YAML with the fields' names. One of list false is written without a list
// around it.
func printMessages[T proto.Message](a *app, out output, list bool, messages []T, t func() *table.Table) error {
	switch out.format {
	case formatTable, formatWide:
		made := t()
		if out.noHeaders {
			made.Header = nil
		}
		return made.Write(a.stdout)
	case formatName:
		return usageError{fmt.Errorf("-o %s: these are no resources", out.format)}
	}
	all := make([]proto.Message, len(messages))
	for i, m := range messages {
		all[i] = m
	}
	return resource.EncodeMessages(a.stdout, resource.Format(out.format), list, all...)
}
