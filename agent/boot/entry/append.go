package entry

import "strings"

// AppendGRUB appends kernel arguments to every command of a GRUB configuration
// that loads a Linux kernel. Those that such a command has already are not
// appended again. It reports whether there is such a command at all.
func AppendGRUB(text string, args []string) (string, bool) {
	found := false
	return eachLine(text, func(line string) string {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return line
		}
		switch fields[0] {
		case "linux", "linux16", "linuxefi":
		default:
			return line
		}
		found = true
		end := strings.TrimRight(line, " \t\r")
		if rest, ok := strings.CutSuffix(end, `\`); ok { // goes on in the next line
			return appended(strings.TrimRight(rest, " \t"), args, grubWord) + ` \`
		}
		return appended(end, args, grubWord)
	}), found
}

// AppendBLS appends kernel arguments to the options of an entry of the Boot
// Loader Specification (type 1), or gives it options. It reports whether the
// entry boots a Linux kernel.
func AppendBLS(text string, args []string) (string, bool) {
	e := parseBLS(text)
	if e.linux == "" {
		return text, false
	}
	done := false
	next := eachLine(text, func(line string) string {
		if f := strings.Fields(line); done || len(f) == 0 || f[0] != "options" {
			return line
		}
		done = true
		var missing []string
		for _, a := range args {
			if !has(strings.Join(e.options, " "), a) {
				missing = append(missing, a)
			}
		}
		return appended(strings.TrimRight(line, " \t\r"), missing, plainWord)
	})
	if done {
		return next, true
	}
	if next != "" && !strings.HasSuffix(next, "\n") {
		next += "\n"
	}
	return next + appended("options", args, plainWord) + "\n", true
}

// AppendGRUBDefaults has update-grub put kernel arguments into what it makes.
// /etc/default/grub is read by a shell, so a line at its end does it.
func AppendGRUBDefaults(text string, args []string) (string, bool) {
	line := `GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX`
	for _, a := range args {
		line += " " + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(plainWord(a))
	}
	line += `"`
	if strings.Contains("\n"+text+"\n", "\n"+line+"\n") {
		return text, true
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + line + "\n", true
}

// AppendCmdline appends to a command line that is a file of its own, such as
// /etc/kernel/cmdline.
func AppendCmdline(text string, args []string) (string, bool) {
	return strings.TrimPrefix(appended(strings.Join(strings.Fields(text), " "), args, plainWord), " ") + "\n", true
}

// eachLine changes lines, without their ends.
func eachLine(text string, change func(string) string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		body := strings.TrimSuffix(line, "\n")
		if next := change(body); next != body {
			lines[i] = next + line[len(body):]
		}
	}
	return strings.Join(lines, "")
}

func appended(line string, args []string, word func(string) string) string {
	for _, a := range args {
		if w := word(a); !has(line, w) && !has(line, a) {
			line += " " + w
		}
	}
	return line
}

// has reports whether a line has a word.
func has(line, word string) bool { return strings.Contains(" "+line+" ", " "+word+" ") }

// plainWord is an argument as the kernel reads it: with a blank it is quoted.
func plainWord(arg string) string {
	if name, value, ok := strings.Cut(arg, "="); ok && strings.ContainsAny(value, " \t") && !strings.HasPrefix(value, `"`) {
		return name + `="` + value + `"`
	}
	return arg
}

// grubWord quotes an argument that GRUB's script would take apart (GRUB manual, Quoting).
func grubWord(arg string) string {
	if !strings.ContainsAny(arg, " \t\"'\\$&|;<>{}#") {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
