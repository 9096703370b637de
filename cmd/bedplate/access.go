package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func newTokenCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Token"), "Tokens, by which people and programs use the API")
	noun.AddCommand(newTokenCreateCommand(a))
	return noun
}

func newTokenCreateCommand(a *app) *cobra.Command {
	var role, description string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME --role viewer|operator|admin",
		Short: "Make a token, and print its secret this once",
		Long: `Make a token. Its secret is printed on the standard output, all else on the
standard error; it can't be had again.`,
		Example: "  TOKEN=$(bedplate token create ci --role operator --expires 720h)",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, words []string) error {
			number, ok := pb.Role_value[strings.ToUpper(role)]
			if !ok || number == 0 {
				return usageError{fmt.Errorf("--role %q: not one of viewer, operator, admin", role)}
			}
			t := &pb.Token{Metadata: &pb.Metadata{Name: words[0]}, Spec: &pb.TokenSpec{Role: pb.Role(number), Description: description}}
			if expires > 0 {
				t.Spec.ExpireTime = timestamppb.New(a.now().Add(expires))
			}
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				made, err := pb.NewTokenServiceClient(c.conn).CreateToken(ctx, &pb.CreateTokenRequest{Token: t})
				if err != nil {
					return err
				}
				fprintf(a.stderr, "%s created; its secret, shown only now:\n", label(made.GetToken()))
				fprintf(a.stdout, "%s\n", made.GetSecret())
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "what it may do: viewer|operator|admin")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long it works, such as 720h (default: until it is deleted)")
	if err := cmd.MarkFlagRequired("role"); err != nil {
		panic(err)
	}
	completeFlag(cmd, "role", "viewer", "operator", "admin")
	return cmd
}

func newSecretCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Secret"), "Secrets that templates and machines refer to")
	noun.AddCommand(newSecretSetCommand(a))
	return noun
}

func newSecretSetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME KEY=VALUE|KEY=@FILE|KEY=-...",
		Short: "Set the values of a secret",
		Long: `Create a secret, or replace all its values. Values are encrypted by the server and
never come back out of it.

KEY=@FILE takes the value from a file, KEY=- from the standard input, without the
newline at its end; others can see values on the command line in the list of
processes.`,
		Example: "  pass bmc/rack-1 | bedplate secret set rack-1-bmc password=-",
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, words []string) error {
			data, err := a.secretData(words[1:])
			if err != nil {
				return err
			}
			s := &pb.Secret{Metadata: &pb.Metadata{Name: words[0]}, Spec: &pb.SecretSpec{Data: data}}
			if err := resource.Validate(s); err != nil {
				return usageError{err}
			}
			return a.with(cmd.Context(), func(c *client) error {
				if _, err := c.update(cmd.Context(), mustKind("Secret"), s, true, false); err != nil {
					return err
				}
				fprintf(a.stdout, "secret/%s set\n", words[0])
				return nil
			})
		},
	}
}

// secretData reads KEY=VALUE words.
func (a *app) secretData(words []string) (map[string]string, error) {
	data := map[string]string{}
	stdin := false
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			// The word itself may be a secret: it is not repeated.
			return nil, usageError{errors.New("KEY=VALUE, KEY=@FILE or KEY=- is expected after the name")}
		}
		if _, twice := data[key]; twice {
			return nil, usageError{fmt.Errorf("%s is given twice", key)}
		}
		var err error
		switch {
		case value == "-" && stdin:
			return nil, usageError{errors.New("only one value can come from the standard input")}
		case value == "-":
			stdin = true
			var text []byte
			text, err = io.ReadAll(io.LimitReader(a.stdin, maxInputBytes))
			value = strings.TrimSuffix(string(text), "\n")
		default:
			value, err = valueOrFile(value)
		}
		if err != nil {
			return nil, err
		}
		data[key] = value
	}
	return data, nil
}

func newTemplateCommand(a *app) *cobra.Command {
	return newNounCommand(a, mustKind("Template"), "Recipes of steps that machines are taken through")
}

func newNetworkCommand(a *app) *cobra.Command {
	return newNounCommand(a, mustKind("Network"), "Subnets that machines boot on")
}
