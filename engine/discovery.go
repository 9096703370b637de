package engine

import (
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/expression"
)

// ruleChecker checks a discovery rule's expressions when it is applied.
type ruleChecker struct{}

// CheckRule implements api.RuleChecker.
func (ruleChecker) CheckRule(spec *pb.RuleSpec) error { return fieldErrors(expression.CheckRule(spec)) }
