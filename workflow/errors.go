package workflow

import (
	"errors"

	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/workflow/plan"
)

// wrongFields is a *resource.FieldErrors that has the plan.Problems it was
// made of beside it: those know the place within a field's text as well.
type wrongFields struct {
	fields   *resource.FieldErrors
	problems plan.Problems
}

func (e *wrongFields) Error() string   { return e.fields.Error() }
func (e *wrongFields) Unwrap() []error { return []error{e.fields, e.problems} }

// asFields makes *resource.FieldErrors of plan.Problems in err; other errors
// stay as they are.
func asFields(kind, name string, err error) error {
	var problems plan.Problems
	var done *resource.FieldErrors
	if !errors.As(err, &problems) || errors.As(err, &done) {
		return err
	}
	fields := &resource.FieldErrors{Kind: kind, Name: name}
	for _, p := range problems {
		fields.Errors = append(fields.Errors, resource.FieldError{Path: p.Field, Message: p.Message})
	}
	return &wrongFields{fields, problems}
}
