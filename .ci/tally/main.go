// Command tally adds up test results. It reads JUnit files, which pytest and gotestsum write, and the output of
// `srpo plugin test --json`, prints the failures, and stores the counts of each step in the folder that the
// environment variable RESULTS names. `tally sum` adds the steps up.
//
//	tally junit NAME FILE
//	tally plugin NAME FILE...
//	tally check NAME STATUS
//	tally sum
//
// Only leaf tests count: a test with subtests counts as its subtests, plus one when it failed and no subtest did. A
// step that ends with a non-zero status and no failed test counts as one failure.
package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Counts are the results of one step.
type Counts struct {
	Name    string   `json:"name"`
	Passed  int      `json:"passed"`
	Failed  []string `json:"failed"`
	Skipped []string `json:"skipped"`
	// Status is the exit status of the step's command.
	Status int `json:"status"`
}

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Getenv("RESULTS")); err != nil {
		if !errors.Is(err, errFailed) { // the failures are printed already
			fmt.Fprintln(os.Stderr, "tally:", err)
		}
		os.Exit(1)
	}
}

var errFailed = errors.New("some tests failed")

func run(args []string, out io.Writer, folder string) error {
	switch {
	case len(args) == 3 && args[0] == "junit":
		data, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		c, err := junit(data)
		if err != nil {
			return fmt.Errorf("%s: %w", args[2], err)
		}
		c.Name = args[1]
		return note(folder, c)
	case len(args) >= 3 && args[0] == "plugin":
		var c Counts
		for _, file := range args[2:] {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := pluginTest(data, out, &c); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		c.Name = args[1]
		return note(folder, c)
	case len(args) == 3 && args[0] == "check":
		status, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return check(folder, args[1], status)
	case len(args) == 1 && args[0] == "sum":
		return sum(folder, out)
	}
	return fmt.Errorf("usage: tally junit NAME FILE | tally plugin NAME FILE... | tally check NAME STATUS | tally sum")
}

// junit counts the leaf tests in a JUnit file. A file without any test is an error.
func junit(data []byte) (Counts, error) {
	var file struct {
		Suites []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Class   string    `xml:"classname,attr"`
				Name    string    `xml:"name,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &file); err != nil {
		return Counts{}, err
	}
	outcome := map[string]string{} // pytest lists a test whose teardown fails twice
	var order []string
	for _, suite := range file.Suites {
		for _, t := range suite.Cases {
			class := t.Class
			if class == "" { // gotestsum: the package did not build
				class = suite.Name
			}
			name, now := strings.TrimPrefix(class+"."+t.Name, "."), "pass"
			switch {
			case t.Failure != nil || t.Error != nil:
				now = "fail"
			case t.Skipped != nil:
				now = "skip"
			}
			before, seen := outcome[name]
			if !seen {
				order = append(order, name)
			}
			if before != "fail" {
				outcome[name] = now
			}
		}
	}
	if len(order) == 0 {
		return Counts{}, fmt.Errorf("no test ran")
	}
	return leaves(order, outcome), nil
}

// leaves counts the tests without subtests, and the tests that failed although none of their subtests did.
func leaves(order []string, outcome map[string]string) Counts {
	parent, explained := map[string]bool{}, map[string]bool{}
	for _, name := range order {
		for at := strings.LastIndexByte(name, '/'); at > 0; at = strings.LastIndexByte(name[:at], '/') {
			parent[name[:at]] = true
			explained[name[:at]] = explained[name[:at]] || outcome[name] == "fail"
		}
	}
	var c Counts
	for _, name := range order {
		switch {
		case outcome[name] == "fail" && !explained[name]:
			c.Failed = append(c.Failed, name)
		case parent[name] || outcome[name] == "fail":
		case outcome[name] == "skip":
			c.Skipped = append(c.Skipped, name)
		default:
			c.Passed++
		}
	}
	return c
}

// pluginTest adds the checks in the output of `srpo plugin test --json` to c and prints the failed ones.
func pluginTest(data []byte, out io.Writer, c *Counts) error {
	var report struct {
		Kind, Name              string
		Passed, Skipped, Failed int
		Checks                  []struct{ Part, Check, Outcome, Message, Hint, Detail string }
	}
	if err := json.Unmarshal(data, &report); err != nil {
		return err
	}
	if len(report.Checks) == 0 {
		return fmt.Errorf("no check ran")
	}
	for _, k := range report.Checks {
		name := fmt.Sprintf("%s %s: %s (%s)", report.Kind, report.Name, k.Check, k.Part)
		switch k.Outcome {
		case "pass":
			c.Passed++
		case "skip":
			c.Skipped = append(c.Skipped, name+": "+k.Message)
		default:
			c.Failed = append(c.Failed, name)
			fmt.Fprintf(out, "FAILED %s: %s\n%s\n  try: %s\n", name, k.Message, k.Detail, k.Hint)
		}
	}
	fmt.Fprintf(
		out, "%s %s: %d passed, %d failed, %d skipped\n", report.Kind, report.Name, report.Passed, report.Failed,
		report.Skipped,
	)
	return nil
}

// note writes a step's counts into folder unless it is empty. It returns errFailed when a test failed.
func note(folder string, c Counts) error {
	if folder != "" {
		data, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, c.Name+".json"), data, 0o644); err != nil {
			return err
		}
	}
	if len(c.Failed) > 0 {
		return errFailed
	}
	return nil
}

// check adds the exit status of a step's command to its counts. A step without tests counts as one test.
func check(folder, name string, status int) error {
	c := Counts{Name: name}
	if data, err := os.ReadFile(filepath.Join(folder, name+".json")); err == nil {
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
	} else if status == 0 {
		c.Passed = 1
	}
	if c.Status = status; status != 0 && len(c.Failed) == 0 {
		c.Failed = append(c.Failed, fmt.Sprintf("%s (status %d)", name, status))
	}
	_ = note(folder, c)
	return nil
}

// sum prints one line per step and, as the last line, "N passed, N failed".
func sum(folder string, out io.Writer) error {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no results in %q", folder)
	}
	sort.Strings(files)
	var failed, skipped []string
	passed := 0
	fmt.Fprintln(out)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var c Counts
		if err := json.Unmarshal(data, &c); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		fmt.Fprintf(out, "%-14s %5d passed %5d failed %5d skipped\n", c.Name, c.Passed, len(c.Failed), len(c.Skipped))
		passed += c.Passed
		for _, n := range c.Failed {
			failed = append(failed, c.Name+": "+n)
		}
		for _, n := range c.Skipped {
			skipped = append(skipped, c.Name+": "+n)
		}
	}
	for _, n := range skipped {
		fmt.Fprintln(out, "skipped", n)
	}
	for _, n := range failed {
		fmt.Fprintln(out, "FAILED", n)
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passed, len(failed))
	if len(failed) > 0 {
		return errFailed
	}
	return nil
}
