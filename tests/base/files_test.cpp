#include "lmxlab/base/files.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

using namespace lmxlab;
using test::error_of;
using testing::HasSubstr;

namespace {

class Files : public testing::Test {
 protected:
  const test::TemporaryFolder temporary;
  const fs::path folder = temporary.path();
};

TEST_F(Files, WritesAndReadsEveryByte) {
  std::string all;
  for (int i = 0; i < 300'000; ++i) all += static_cast<char>(i * 31 % 256);
  write_file_atomic(folder / "a", all);
  EXPECT_EQ(read_file(folder / "a"), all);
  write_file_atomic(folder / "a", "");
  EXPECT_EQ(read_file(folder / "a"), "");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "no temporary file stays";
}

TEST_F(Files, ErrorsHaveTheirKindAndNameThePath) {
  const Error absent = error_of([&] { read_file(folder / "absent"); });
  EXPECT_EQ(absent.kind(), Kind::not_found);
  EXPECT_THAT(absent.what(), HasSubstr((folder / "absent").string()));
  EXPECT_EQ(error_of([&] { read_file(folder); }).kind(), Kind::usage);
  EXPECT_EQ(error_of([&] { MappedFile(folder / "absent"); }).kind(), Kind::not_found);
  EXPECT_EQ(error_of([&] { MappedFile{folder}; }).kind(), Kind::usage);
  EXPECT_EQ(error_of([&] { write_file_atomic(folder / "no" / "a", "x"); }).kind(), Kind::not_found);
  write_file_atomic(folder / "file", "x");
  EXPECT_EQ(error_of([&] { make_directory(folder / "file" / "sub"); }).kind(), Kind::resource);
  EXPECT_EQ(error_of([&] { read_file(folder / "file" / "sub"); }).kind(), Kind::not_found);
  EXPECT_EQ(error_of([&] { sync_path(folder / "absent"); }).kind(), Kind::not_found);
}

#ifdef __linux__  // where /dev/full is
TEST_F(Files, AFullDiskIsAResourceError) {
  fs::create_symlink("/dev/full", folder / "full");
  LineWriter writer(folder / "full");
  const Error e = error_of([&] { writer.write("line"); });
  EXPECT_EQ(e.kind(), Kind::resource);
  EXPECT_THAT(e.what(), HasSubstr((folder / "full").string()));
}
#endif

TEST_F(Files, APipeIsNeitherMappedNorReplaced) {
  const auto pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { MappedFile{pipe}; }).kind(), Kind::usage);
  EXPECT_EQ(error_of([&] { write_file_atomic(pipe, "x"); }).kind(), Kind::usage);
  EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST_F(Files, AFailedReplacementKeepsTheOldContent) {
  fs::create_directories(folder / "target" /
                         "inside");  // a folder that is not empty cannot be replaced by a file
  EXPECT_EQ(error_of([&] { write_file_atomic(folder / "target", "new"); }).kind(), Kind::resource);
  EXPECT_TRUE(fs::is_directory(folder / "target" / "inside"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "no temporary file stays";
}

TEST_F(Files, WithoutCommitNothingChanges) {
  write_file_atomic(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("half of the ");
    EXPECT_EQ(read_file(folder / "a"), "old");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "no temporary file stays";
  {
    AtomicFile file(folder / "a");
    file.write("new "), file.write("content");
    file.commit();
  }
  EXPECT_EQ(read_file(folder / "a"), "new content");
}

TEST_F(Files, LinesAreAppended) {
  {
    LineWriter a(folder / "log");
    a.write("one");
    LineWriter b = std::move(a);
    b.write("");
    LineWriter c;
    c = std::move(b);
    c.write("two");
    EXPECT_EQ(read_file(folder / "log"), "one\n\ntwo\n") << "each line is there at once";
  }
  LineWriter(folder / "log").write("three");
  EXPECT_EQ(read_file(folder / "log"), "one\n\ntwo\nthree\n");
}

TEST_F(Files, MappingHasAPageOfZerosInFront) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  for (const size_t size : {size_t{0}, size_t{1}, page - 1, page, page + 1, 3 * page}) {
    const std::string content(size, 'x');
    write_file_atomic(folder / "m", content);
    const MappedFile map(folder / "m");
    EXPECT_EQ(map.size(), size);
    EXPECT_EQ(map.text(), content);
    EXPECT_EQ(map.bytes().size(), size);
    ASSERT_NE(map.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(map.data()) % page, 0u);
    const std::string zeros(page, '\0');
    EXPECT_EQ(std::memcmp(map.data() - page, zeros.data(), page), 0);
  }
}

TEST_F(Files, AMappingOutlivesTheReplacementOfItsFile) {
  write_file_atomic(folder / "m", "old content");
  const MappedFile map(folder / "m");
  write_file_atomic(folder / "m", "new");
  EXPECT_EQ(map.text(), "old content");
  EXPECT_EQ(MappedFile(folder / "m").text(), "new");
}

TEST_F(Files, FoldersAreMadeWithTheirParentsAndTwice) {
  make_directory(folder / "a" / "b" / "c");
  make_directory(folder / "a" / "b" / "c");
  EXPECT_TRUE(fs::is_directory(folder / "a" / "b" / "c"));
  EXPECT_NO_THROW(sync_path(folder / "a"));
}

TEST(FolderLock, KeepsASecondOneAway) {
  const test::TemporaryFolder temporary;
  const fs::path folder = temporary.path();
  {
    const FolderLock first(folder);
    try {
      const FolderLock second(folder);
      ADD_FAILURE() << "two at once";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::resource) << e.what();
    }
  }
  const FolderLock again(folder);
}

}  // namespace
