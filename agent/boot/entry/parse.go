package entry

import (
	"errors"
	"fmt"
)

// The nodes of a parsed script.
type (
	node      any
	command   []word
	condition struct {
		branches  []branch
		otherwise []node
	}
	branch struct{ when, then []node }
	loop   struct {
		variable   string // for
		over       []word
		when, body []node // while, until
		until      bool
	}
	function struct {
		name string
		body []node
	}
	menuItem struct {
		words   []word
		body    []node
		submenu bool
	}
)

type parser struct {
	tokens []token
	i      int
	depth  int
}

func parse(tokens []token) ([]node, error) {
	p := &parser{tokens: tokens}
	nodes, err := p.list()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.op != "end" {
		return nil, fmt.Errorf("unexpected %s", t.name())
	}
	return nodes, nil
}

func (t token) name() string {
	if t.op != "" {
		return t.op
	}
	return fmt.Sprintf("%q", t.plain())
}

func (p *parser) peek() token { return p.tokens[p.i] }

// take moves on by one token, never past the end.
func (p *parser) take() token {
	t := p.tokens[p.i]
	if t.op != "end" {
		p.i++
	}
	return t
}

// list parses commands up to a word or operator that can't begin one.
func (p *parser) list() (nodes []node, err error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errors.New("it is nested too deeply")
	}
	defer func() { p.depth-- }()
	for {
		t := p.peek()
		switch {
		case t.op == ";":
			p.take()
			continue
		case t.op != "" && t.op != "{":
			return nodes, nil
		}
		switch t.plain() {
		case "then", "elif", "else", "fi", "do", "done":
			return nodes, nil
		}
		n, err := p.node()
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
}

func (p *parser) node() (node, error) {
	switch p.peek().plain() {
	case "if":
		return p.condition()
	case "for":
		return p.forLoop()
	case "while", "until":
		return p.whileLoop()
	case "function":
		return p.function()
	case "menuentry":
		return p.menuItem(false)
	case "submenu":
		return p.menuItem(true)
	}
	words := p.wordsUntil()
	if len(words) == 0 {
		return nil, fmt.Errorf("unexpected %s", p.peek().name())
	}
	return command(words), nil
}

// wordsUntil takes words up to an operator.
func (p *parser) wordsUntil() (words []word) {
	for p.peek().op == "" {
		words = append(words, p.take().word)
	}
	return words
}

func (p *parser) want(keyword string) error {
	for p.peek().op == ";" {
		p.take()
	}
	if t := p.take(); t.plain() != keyword {
		return fmt.Errorf("%s is missing, there is %s", keyword, t.name())
	}
	return nil
}

func (p *parser) condition() (node, error) {
	var c condition
	for {
		p.take() // if, elif
		when, err := p.list()
		if err == nil {
			err = p.want("then")
		}
		if err != nil {
			return nil, err
		}
		then, err := p.list()
		if err != nil {
			return nil, err
		}
		c.branches = append(c.branches, branch{when, then})
		if p.peek().plain() != "elif" {
			break
		}
	}
	if p.peek().plain() == "else" {
		p.take()
		var err error
		if c.otherwise, err = p.list(); err != nil {
			return nil, err
		}
	}
	return c, p.want("fi")
}

func (p *parser) forLoop() (node, error) {
	p.take()
	l := loop{variable: p.take().plain()}
	if l.variable == "" {
		return nil, errors.New("for has no variable")
	}
	if err := p.want("in"); err != nil {
		return nil, err
	}
	l.over = p.wordsUntil()
	return p.body(l)
}

func (p *parser) whileLoop() (node, error) {
	l := loop{until: p.take().plain() == "until"}
	var err error
	if l.when, err = p.list(); err != nil {
		return nil, err
	}
	return p.body(l)
}

func (p *parser) body(l loop) (node, error) {
	err := p.want("do")
	if err != nil {
		return nil, err
	}
	if l.body, err = p.list(); err != nil {
		return nil, err
	}
	return l, p.want("done")
}

func (p *parser) function() (node, error) {
	p.take()
	f := function{name: p.take().plain()}
	var err error
	f.body, err = p.block()
	return f, err
}

func (p *parser) menuItem(submenu bool) (node, error) {
	p.take()
	m := menuItem{submenu: submenu, words: p.wordsUntil()}
	var err error
	m.body, err = p.block()
	return m, err
}

// block is { … }.
func (p *parser) block() ([]node, error) {
	for p.peek().op == ";" {
		p.take()
	}
	if t := p.take(); t.op != "{" {
		return nil, fmt.Errorf("{ is missing, there is %s", t.name())
	}
	nodes, err := p.list()
	if err != nil {
		return nil, err
	}
	if t := p.take(); t.op != "}" {
		return nil, fmt.Errorf("} is missing, there is %s", t.name())
	}
	return nodes, nil
}
