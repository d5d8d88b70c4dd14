package attempts

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/plugins"
)

// entry is one row of a list or of a labels file.
type entry struct {
	ID, Task, Video string
	hasTask         bool
	Success         *bool
	Demo            bool
	Progress        *float64
	Embedding       *vector
	// place is the position of the row: "list.json, attempt 3" or "list.csv:4".
	place string
}

func (e entry) attempt() Attempt {
	return Attempt{ID: e.ID, Task: e.Task, Success: e.Success, Demo: e.Demo, Progress: e.Progress}
}

// vector is the embedding of a row: numbers, or the path of a .npy file.
type vector struct {
	numbers []float64
	path    string
	problem string
}

// read returns the numbers, or the reason why there are none.
func (v *vector) read(dir string) (numbers []float64, problem string) {
	if v.path == "" || v.problem != "" {
		return v.numbers, v.problem
	}
	path, _ := findFile(relativeTo(filepath.Join(dir, "list"), v.path))
	numbers, err := media.ReadVector(path)
	if err != nil {
		return nil, "the embedding " + v.path + ": " + plugins.AsError(err).Message
	}
	return numbers, ""
}

// defaultTask is the name of the task if no attempt has one.
const defaultTask = "task"

// keys are the names in a row, aliases other names for them.
var keys = []string{"id", "task", "success", "video", "embedding", "progress", "demo"}

var aliases = map[string]string{"file": "video", "path": "video", "label": "success", "name": "id"}

// readEntries reads the rows of a .json, .jsonl or .csv file. The returned list has everything else:
// anchors, encoder and warnings.
func readEntries(path string) (*List, []entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s", path).
			WithHint("check its permissions")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark, as some spreadsheets write
	list := &List{}
	var rows []entry
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		rows, err = list.csv(path, data)
	case ".jsonl":
		rows, err = list.lines(path, data)
	default:
		rows, err = list.json(path, data)
	}
	if err != nil {
		return nil, nil, err
	}
	named := 0
	for _, r := range rows {
		if r.hasTask {
			named++
		}
	}
	for i := range rows {
		switch {
		case named == 0:
			rows[i].Task = defaultTask
		case !rows[i].hasTask:
			return nil, nil, plugins.Errorf(plugins.Invalid, "no task, while other attempts have one").
				WithPlace("%s", rows[i].place).
				WithHint("give each attempt a task, or none if all attempts are at the same task")
		}
	}
	return list, rows, nil
}

func (l *List) csv(path string, data []byte) ([]entry, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	if first, _, _ := bytes.Cut(data, []byte("\n")); bytes.Count(first, []byte(";")) > bytes.Count(first,
		[]byte(",")) {
		r.Comma = ';'
	}
	bad := func(line int, err error) error {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s:%d", path, line).
			WithHint("write a first line of names (id, task, success, and video or embedding), then one line per " +
				"attempt")
	}
	head, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, csvError(bad, err)
	}
	for i := range head {
		head[i] = strings.ToLower(strings.TrimSpace(head[i]))
	}
	if !slices.Contains(head, "id") && !slices.Contains(head, "name") && !slices.Contains(head, "video") &&
		!slices.Contains(head, "file") && !slices.Contains(head, "path") {
		return nil, bad(1, fmt.Errorf("no column is called id or file, only %s", strings.Join(head, ", ")))
	}
	var rows []entry
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, csvError(bad, err)
		}
		line, _ := r.FieldPos(0)
		if len(cells) == 1 && strings.TrimSpace(cells[0]) == "" {
			continue
		}
		if len(cells) != len(head) {
			return nil, bad(line, fmt.Errorf("%d values for %d columns", len(cells), len(head)))
		}
		row := map[string]any{}
		for i, name := range head {
			cell := strings.TrimSpace(cells[i])
			if cell == "" {
				continue
			}
			row[name] = cell
			switch canonical(name) {
			case "progress":
				row[name] = json.Number(cell)
			case "embedding":
				if v, ok := numbersIn(cell); ok {
					row[name] = v
				}
			}
		}
		e, err := l.entry(fmt.Sprintf("%s:%d", path, line), row)
		if err != nil {
			return nil, err
		}
		rows = append(rows, e)
	}
}

// csvError adds the line of a syntax error to the place.
func csvError(bad func(line int, err error) error, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return bad(parse.StartLine, parse.Err)
	}
	return bad(1, err)
}

// numbersIn parses an embedding in a cell: numbers separated by blanks, commas or semicolons, with or
// without brackets. ok is false if the cell starts with anything else, for example a path.
func numbersIn(cell string) (numbers []any, ok bool) {
	fields := strings.FieldsFunc(strings.Trim(cell, "[]"), func(r rune) bool {
		return strings.ContainsRune(" ,;\t\n", r)
	})
	out := make([]any, len(fields))
	for i, w := range fields {
		if _, err := strconv.ParseFloat(w, 64); err != nil && !errors.Is(err, strconv.ErrRange) {
			if i == 0 && !strings.HasPrefix(cell, "[") {
				return nil, false
			}
		}
		out[i] = json.Number(w)
	}
	return out, true
}

func (l *List) lines(path string, data []byte) ([]entry, error) {
	var rows []entry
	for n, line := range bytes.Split(data, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		place := fmt.Sprintf("%s:%d", path, n+1)
		var row map[string]any
		if err := decode(place, line, &row); err != nil {
			return nil, err
		}
		e, err := l.entry(place, row)
		if err != nil {
			return nil, err
		}
		rows = append(rows, e)
	}
	return rows, nil
}

func (l *List) json(path string, data []byte) ([]entry, error) {
	var whole any
	if err := decode(path, data, &whole); err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).
			WithPlace("%s", path).
			WithHint(`write a list [{"id": ..., "task": ..., "success": true, "embedding": [...]}, ...], ` +
				`or an object {"attempts": [...], "anchors": {...}}`)
	}
	object, isObject := whole.(map[string]any)
	if isObject {
		given, has := object["anchors"]
		anchors, ok := given.(map[string]any)
		if has && !ok && object["attempts"] != nil {
			return nil, wrong("the anchors are not an object {TASK: [...]}")
		}
		if ok {
			l.Anchors = map[string][]float64{}
			for task, v := range anchors {
				numbers, ok := v.([]any)
				if !ok {
					return nil, wrong("the anchor of task %q is not a list of numbers", task)
				}
				x := vectorOf(numbers)
				if x.problem != "" {
					return nil, wrong("the anchor of task %q: %s", task, x.problem)
				}
				l.Anchors[task] = x.numbers
			}
		}
		l.Encoder, _ = object["encoder"].(string)
		attempts, ok := object["attempts"]
		if !ok { // a labels file {"a.mp4": true, ...} or {"a.mp4": {"task": ...}}
			return l.byName(path, object)
		}
		whole = attempts
	}
	items, ok := whole.([]any)
	if !ok {
		return nil, wrong("there is no list of attempts")
	}
	matrix, err := l.matrix(path, object, len(items))
	if err != nil {
		return nil, err
	}
	var rows []entry
	for i, item := range items {
		row, ok := item.(map[string]any)
		place := fmt.Sprintf("%s, attempt %d", path, i+1)
		if !ok {
			return nil, plugins.Errorf(plugins.Invalid, "not an object but %s", kindOf(item)).WithPlace("%s", place).
				WithHint(`{"id": ..., "task": ..., "success": true, "embedding": [...]}`)
		}
		e, err := l.entry(place, row)
		if err != nil {
			return nil, err
		}
		if matrix != nil && e.Embedding == nil && e.Video == "" {
			e.Embedding = &vector{numbers: matrix[i]}
		}
		rows = append(rows, e)
	}
	return rows, nil
}

// matrix reads the .npy file named by an object's "embeddings": a matrix with one row per attempt. It
// returns nil if there is none.
func (l *List) matrix(path string, object map[string]any, n int) ([][]float64, error) {
	name, ok := object["embeddings"].(string)
	if !ok {
		return nil, nil
	}
	fail := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s, embeddings %s", path, name).
			WithHint("save a matrix with one row per attempt, float32 or float64, with numpy.save")
	}
	h, numbers, err := media.ReadFloats(relativeTo(path, name))
	switch {
	case err != nil:
		return nil, fail("%s", plugins.AsError(err).Message)
	case len(h.Shape) != 2 || h.Shape[0] != n || h.Fortran:
		return nil, fail("the array has shape (%s) for %d attempts", media.ShapeString(h.Shape), n)
	}
	rows := make([][]float64, n)
	for i := range rows {
		rows[i] = numbers[i*h.Shape[1] : (i+1)*h.Shape[1]]
	}
	return rows, nil
}

// byName reads {"a.mp4": true, "b.mp4": {"success": false, "task": "stack"}}.
func (l *List) byName(path string, object map[string]any) ([]entry, error) {
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	var rows []entry
	for _, name := range names {
		place := fmt.Sprintf("%s, %q", path, name)
		row, ok := object[name].(map[string]any)
		switch object[name].(type) {
		case bool, nil:
			row, ok = map[string]any{"success": object[name]}, true
		}
		if !ok {
			return nil, plugins.Errorf(plugins.Invalid, "%s instead of a label", kindOf(object[name])).
				WithPlace("%s", place).
				WithHint(`write a list of attempts, an object {"attempts": [...]}, or labels {"FILE": true, ...}`)
		}
		if row["video"] == nil && row["file"] == nil && row["path"] == nil {
			row["video"] = name
		}
		e, err := l.entry(place, row)
		if err != nil {
			return nil, err
		}
		rows = append(rows, e)
	}
	return rows, nil
}

// canonical returns the name for which a key may be an alias.
func canonical(key string) string {
	if other, ok := aliases[key]; ok {
		return other
	}
	return key
}

// entry converts the fields of one attempt.
func (l *List) entry(place string, row map[string]any) (entry, error) {
	e := entry{place: place}
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s", place).WithHint("%s", hint)
	}
	unknown := []string{}
	for key, value := range row {
		if value == nil {
			continue
		}
		switch canonical(strings.ToLower(strings.TrimSpace(key))) {
		case "id":
			if e.ID = text(value); e.ID == "" {
				return e, bad("give a word or a number that no other attempt has", "the id is %s", kindOf(value))
			}
		case "task":
			if e.Task, e.hasTask = text(value), true; e.Task == "" {
				return e, bad("give the name of the task", "the task is %s", kindOf(value))
			}
		case "video":
			if e.Video = text(value); e.Video == "" {
				return e, bad("give the path of the video, relative to this file", "the video is %s", kindOf(value))
			}
		case "success":
			v, known, ok := truth(value)
			if !ok {
				return e, bad("give true, false, or null if it is not known", "success is %v", value)
			}
			if known {
				e.Success = &v
			}
		case "demo":
			v, _, ok := truth(value)
			if !ok {
				return e, bad("give true or false", "demo is %v", value)
			}
			e.Demo = v
		case "progress":
			n, ok := value.(json.Number)
			p, err := strconv.ParseFloat(string(n), 64)
			if !ok || err != nil || math.IsNaN(p) || math.IsInf(p, 0) {
				return e, bad("give a number from 0 to 1, where 1 is done", "progress is %v", value)
			}
			e.Progress = &p
		case "embedding":
			switch v := value.(type) {
			case []any:
				e.Embedding = vectorOf(v)
			case string:
				e.Embedding = &vector{path: v}
			default:
				e.Embedding = &vector{problem: "the embedding is " + kindOf(value) + ", not a list of numbers"}
			}
		default:
			unknown = append(unknown, key)
		}
	}
	if e.ID == "" {
		e.ID = e.Video
	}
	if e.ID == "" {
		return e, bad("give each attempt a different id", "the attempt has no id")
	}
	if e.Demo && (e.Success == nil || !*e.Success) {
		return e, bad("set success = true, or remove demo", "attempt %q is a demonstration but not a success", e.ID)
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		l.unknownKey(key)
	}
	return e, nil
}

// unknownKey warns once about a key that looks like a misspelt one. Other unknown keys are taken for notes.
func (l *List) unknownKey(key string) {
	meant := ""
	if len(key) > 3 {
		meant = nearest.To(key, keys)
	}
	warning := fmt.Sprintf("%q is ignored; did you mean %q?", key, meant)
	if meant != "" && !slices.Contains(l.Warnings, warning) {
		l.Warnings = append(l.Warnings, warning)
	}
}

// vectorOf converts numbers. null becomes NaN, and a number that is too large becomes infinite; the reward
// reports both with their index.
func vectorOf(items []any) *vector {
	v := &vector{numbers: make([]float64, len(items))}
	for i, item := range items {
		switch x := item.(type) {
		case nil:
			v.numbers[i] = math.NaN()
		case json.Number:
			f, err := strconv.ParseFloat(string(x), 64) // a number out of range becomes infinite
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return &vector{problem: fmt.Sprintf("the embedding has %q at index %d, which is not a number",
					string(x), i)}
			}
			v.numbers[i] = f
		default:
			return &vector{problem: fmt.Sprintf("the embedding has %s at index %d, not a number", kindOf(item), i)}
		}
	}
	return v
}

// text returns a name: a string without surrounding space, or a number as written; "" for anything else.
func text(v any) string {
	switch x := v.(type) {
	case string:
		return strings.TrimSpace(x)
	case json.Number:
		return string(x)
	}
	return ""
}

// truth converts a label. known is false for null and its synonyms.
func truth(v any) (value, known, ok bool) {
	if n, is := v.(json.Number); is {
		v = string(n)
	}
	switch x := v.(type) {
	case bool:
		return x, true, true
	case string:
		switch strings.ToLower(strings.TrimSpace(x)) {
		case "true", "1", "1.0", "yes", "success":
			return true, true, true
		case "false", "0", "0.0", "no", "failure", "fail":
			return false, true, true
		case "", "null", "none", "unknown", "?", "nan":
			return false, false, true
		}
	}
	return false, false, false
}

// kindOf describes a JSON value in an error.
func kindOf(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(x)
	case string:
		if x == "" {
			return "empty"
		}
		return strconv.Quote(x)
	case json.Number:
		return "the number " + string(x)
	case []any:
		return "a list"
	}
	return "an object"
}

// decode decodes JSON. It accepts the NaN and Infinity that Python's json module writes, as null and as
// numbers out of range.
func decode(place string, data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(plainNumbers(data)))
	d.UseNumber()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more text after its end")
		}
	}
	if err == nil {
		return nil
	}
	at := d.InputOffset()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = syntax.Offset
	}
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		err = errors.New("it is empty")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err, at = errors.New("the file ends in the middle"), int64(len(data))
	}
	if !strings.Contains(place, ".jsonl:") {
		before := data[:min(int(max(at-1, 0)), len(data))]
		place = fmt.Sprintf("%s:%d:%d", place, 1+bytes.Count(before, []byte("\n")),
			len(before)-bytes.LastIndexByte(before, '\n'))
	}
	return plugins.Errorf(plugins.Invalid, "invalid JSON: %w", err).WithPlace("%s", place).
		WithHint("fix the file there, or write it again")
}

// plainNumbers replaces NaN by null and Infinity by a number out of range.
func plainNumbers(data []byte) []byte {
	if !bytes.Contains(data, []byte("NaN")) && !bytes.Contains(data, []byte("Infinity")) {
		return data
	}
	out := make([]byte, 0, len(data)+1024)
	inString := false
	for i := 0; i < len(data); i++ {
		switch {
		case inString && data[i] == '\\' && i+1 < len(data):
			out = append(out, data[i])
			i++
		case data[i] == '"':
			inString = !inString
		case inString:
		case bytes.HasPrefix(data[i:], []byte("NaN")):
			out = append(out, "null"...)
			i += len("NaN") - 1
			continue
		case bytes.HasPrefix(data[i:], []byte("Infinity")):
			out = append(out, "9e999"...)
			i += len("Infinity") - 1
			continue
		}
		out = append(out, data[i])
	}
	return out
}
