// Command tally counts test results. It reads what `go test -json` prints, JUnit files, or what `srpo plugin test --json` prints, shows what a person wants to see of it, and notes the counts in
// the folder that the variable RESULTS names, where `tally sum` adds them up.
//
//	go test -json ./... | tally go NAME
//	tally junit NAME FILE
//	tally plugin NAME FILE...
//	tally check NAME STATUS
//	tally sum
//
// Counted are the tests at the leaves: one with subtests is as many as these are, plus itself when it failed and none of them did. A package that fails
// without a failing test (it does not build, it panics, it runs out of time) counts as one failure. So does a step that failed for any other reason.
package main

import (
	"bufio"
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

// Counts of one step.
type Counts struct {
	Name    string   `json:"name"`
	Passed  int      `json:"passed"`
	Failed  []string `json:"failed"`
	Skipped []string `json:"skipped"`
	// Status of the step's command; a step that ended badly without a failed test counts as a failure itself.
	Status int `json:"status"`
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Getenv("RESULTS")); err != nil {
		if !errors.Is(err, errFailed) { // the failures have been named
			fmt.Fprintln(os.Stderr, "tally:", err)
		}
		os.Exit(1)
	}
}

var errFailed = errors.New("there are failures")

func run(args []string, in io.Reader, out io.Writer, folder string) error {
	switch {
	case len(args) == 2 && args[0] == "go":
		c, err := goTest(in, out)
		if err != nil {
			return err
		}
		c.Name = args[1]
		return note(folder, c)
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
	return fmt.Errorf("usage: tally go NAME | tally junit NAME FILE | tally plugin NAME FILE... | tally check NAME STATUS | tally sum")
}

// event is a line of `go test -json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// goTest shows the lines that end packages, and everything that failed tests printed.
func goTest(in io.Reader, out io.Writer) (Counts, error) {
	type key struct{ pkg, test string }
	verdict := map[key]string{}
	output := map[key][]string{}
	failing := map[string]bool{} // packages with a failed test
	var order []key
	var brokenPackages []string
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, 64<<20)
	for scan.Scan() {
		var e event
		if json.Unmarshal(scan.Bytes(), &e) != nil {
			fmt.Fprintln(out, scan.Text()) // what go itself says
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "output":
			if e.Test == "" && (strings.HasPrefix(e.Output, "ok ") || strings.HasPrefix(e.Output, "FAIL\t") || strings.HasPrefix(e.Output, "?")) {
				fmt.Fprint(out, e.Output)
				continue
			}
			output[k] = append(output[k], e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				if _, seen := verdict[k]; !seen {
					order = append(order, k)
				}
				verdict[k] = e.Action
				if e.Action == "fail" {
					failing[e.Package] = true
					fmt.Fprint(out, strings.Join(output[k], ""))
				}
			} else if e.Action == "fail" {
				fmt.Fprint(out, strings.Join(output[k], ""))
				if !failing[e.Package] {
					brokenPackages = append(brokenPackages, e.Package)
					for o, lines := range output { // the test that was running when it panicked
						if o.pkg == e.Package && o.test != "" && verdict[o] == "" {
							fmt.Fprint(out, strings.Join(lines, ""))
						}
					}
				}
			}
			delete(output, k)
		}
	}
	if err := scan.Err(); err != nil {
		return Counts{}, err
	}
	parents, blamed := map[key]bool{}, map[key]bool{}
	for _, k := range order {
		for at := strings.LastIndexByte(k.test, '/'); at > 0; at = strings.LastIndexByte(k.test[:at], '/') {
			parents[key{k.pkg, k.test[:at]}] = true
			if verdict[k] == "fail" {
				blamed[key{k.pkg, k.test[:at]}] = true
			}
		}
	}
	var c Counts
	for _, k := range order {
		name := k.pkg + "." + k.test
		switch {
		case verdict[k] == "fail":
			if !blamed[k] {
				c.Failed = append(c.Failed, name)
			}
		case parents[k]:
		case verdict[k] == "skip":
			c.Skipped = append(c.Skipped, name)
		default:
			c.Passed++
		}
	}
	c.Failed = append(c.Failed, brokenPackages...)
	if len(order) == 0 && len(brokenPackages) == 0 {
		return c, fmt.Errorf("no test ran")
	}
	return c, nil
}

// junit reads the file that pytest --junitxml writes.
func junit(data []byte) (Counts, error) {
	var file struct {
		Suites []struct {
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
	var c Counts
	seen := map[string]string{} // a test whose teardown fails too is listed twice
	var order []string
	for _, s := range file.Suites {
		for _, t := range s.Cases {
			name := strings.TrimPrefix(t.Class+"."+t.Name, ".")
			verdict := "pass"
			switch {
			case t.Failure != nil || t.Error != nil:
				verdict = "fail"
			case t.Skipped != nil:
				verdict = "skip"
			}
			if _, ok := seen[name]; !ok {
				order = append(order, name)
			} else if seen[name] == "fail" {
				verdict = "fail"
			}
			seen[name] = verdict
		}
	}
	for _, name := range order {
		switch seen[name] {
		case "fail":
			c.Failed = append(c.Failed, name)
		case "skip":
			c.Skipped = append(c.Skipped, name)
		default:
			c.Passed++
		}
	}
	if len(order) == 0 {
		return c, fmt.Errorf("no test ran")
	}
	return c, nil
}

// pluginTest adds what `srpo plugin test --json` found to c, and shows it.
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
	fmt.Fprintf(out, "%s %s: %d passed, %d failed, %d skipped\n", report.Kind, report.Name, report.Passed, report.Failed, report.Skipped)
	return nil
}

// note writes a step's counts into folder, when there is one, and fails when a test failed.
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

// check adds the status of a step's command to what the step counted. A step without tests is one check.
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

// sum prints a line for each step and, last, "N passed, N failed".
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
