package test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the import path of the repository's root.
const module = "github.com/culvert-k8s/culvert"

// sourceFile is one Go file of the module, for whatever system it is built.
type sourceFile struct {
	dir       string // slash-separated, relative to the module's root
	name      string
	pkg       string
	doc       string // package comment, without directives
	imports   []string
	lines     int
	generated bool
}

func (f *sourceFile) path() string { return path.Join(f.dir, f.name) }

func (f *sourceFile) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

// readSource parses every Go file of the module. It reads files and not what
// the go command lists, since that shows one operating system at a time.
func readSource(t *testing.T) []*sourceFile {
	t.Helper()
	root := os.DirFS("..")
	var files []*sourceFile
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, name)
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		f, err := parseSource(root, name)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatalf("read the source: %v", err)
	}
	if len(files) == 0 {
		t.Fatal("no source found beside test/")
	}
	return files
}

// skipDir answers fs.SkipDir for directories that the go command ignores, for
// modules of their own, and for what builds and tests leave behind.
func skipDir(root fs.FS, dir string) error {
	if dir == "." {
		return nil
	}
	base := path.Base(dir)
	ignored := strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata"
	left := dir == "bin" || dir == "test/artifacts"
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	if ignored || left || err == nil {
		return fs.SkipDir
	}
	return nil
}

func parseSource(root fs.FS, name string) (*sourceFile, error) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	syntax, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return nil, err
	}
	f := &sourceFile{
		dir:       path.Dir(name),
		name:      path.Base(name),
		pkg:       syntax.Name.Name,
		doc:       syntax.Doc.Text(),
		lines:     bytes.Count(text, []byte("\n")),
		generated: ast.IsGenerated(syntax),
	}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		f.imports = append(f.imports, imported)
	}
	return f, nil
}

func TestEveryPackageSaysOnceWhatItIs(t *testing.T) {
	files := make(map[string][]*sourceFile)
	for _, f := range readSource(t) {
		if !f.isTest() {
			files[f.dir] = append(files[f.dir], f)
		}
	}
	for dir, pkg := range files {
		var docs []string
		for _, f := range pkg {
			if f.doc == "" {
				continue
			}
			docs = append(docs, f.name)
			if want := "Package " + f.pkg + " "; f.pkg != "main" && !strings.HasPrefix(f.doc, want) {
				t.Errorf("%s: the package comment does not begin with %q", f.path(), want)
			}
		}
		if len(docs) != 1 {
			t.Errorf("%s: %d package comments %q, want exactly one", dir, len(docs), docs)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	const product, tests = 350, 700 // lines
	for _, f := range readSource(t) {
		limit := product
		if f.isTest() {
			limit = tests
		}
		if f.lines > limit && !f.generated {
			t.Errorf("%s: %d lines, want at most %d: which second thing does the file hold?", f.path(), f.lines, limit)
		}
	}
}

func TestNamesSayWhatIsInside(t *testing.T) {
	attics := []string{"util", "utils", "common", "constants", "helper", "helpers", "misc", "types"}
	for _, f := range readSource(t) {
		for part := range strings.SplitSeq(f.dir, "/") {
			if slices.Contains(attics, part) {
				t.Errorf("%s: a directory named %s takes in anything: name it after what it knows", f.path(), part)
			}
		}
		stem := strings.TrimSuffix(f.name, ".go")
		for part := range strings.SplitSeq(stem, "_") {
			if slices.Contains(attics, part) {
				t.Errorf("%s: a file named %s takes in anything: name it after what it knows", f.path(), part)
			}
		}
	}
}
