// SPDX-License-Identifier: Apache-2.0
// Files that HDF5 itself would read, made with HDF5 itself. Each must be refused before any of its data is
// read.
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include "data/h5.hpp"
#include "tests/support/corpus.hpp"

namespace kumiko::data {
namespace {

using test::TempFolder;
using ::testing::HasSubstr;

class HostileFile : public ::testing::Test {
 protected:
  // What H5File says about a file that `fill` has filled.
  std::string refusal(const std::function<void(hid_t file)>& fill) {
    const std::string path = (folder / "a.h5").string();
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    EXPECT_GE(file, 0);
    fill(file);
    H5Fclose(file);
    return test::message_of<H5Error>([&] { H5File::open(path); });
  }

  static void make_dataset(hid_t file, const char* name, hid_t type, std::vector<hsize_t> dims,
                           hid_t properties = H5P_DEFAULT) {
    const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    if (properties == H5P_DEFAULT && dims[0] < 1000) {
      const std::vector<double> zeros(dims[0]);
      H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data());
    }
    H5Dclose(dataset);
    H5Sclose(space);
  }

  const TempFolder folder;
};

TEST_F(HostileFile, PlainOneIsTaken) {
  EXPECT_EQ(refusal([](hid_t file) { make_dataset(file, "v", H5T_IEEE_F64LE, {8}); }), "");
}

TEST_F(HostileFile, ExternalStorageIsRefused) {
  test::write_text(folder / "secret", "TOPSECRET and more");
  const std::string secret = (folder / "secret").string();
  EXPECT_THAT(refusal([&secret](hid_t file) {
                const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
                H5Pset_external(properties, secret.c_str(), 0, 16);
                make_dataset(file, "v", H5T_STD_U8LE, {16}, properties);
                H5Pclose(properties);
              }),
              HasSubstr("stored in another file"));
}

TEST_F(HostileFile, SoftAndExternalLinksAreRefused) {
  EXPECT_THAT(
      refusal([](hid_t file) { H5Lcreate_soft("/elsewhere", file, "link", H5P_DEFAULT, H5P_DEFAULT); }),
      HasSubstr("'link' is a soft or external link"));
  EXPECT_THAT(refusal([](hid_t file) {
                H5Lcreate_external("other.h5", "/v", file, "link", H5P_DEFAULT, H5P_DEFAULT);
              }),
              HasSubstr("'link' is a soft or external link"));
}

TEST_F(HostileFile, VirtualChunkedAndFilteredDataAreRefused) {
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
                const hsize_t dims = 16;
                const hid_t space = H5Screate_simple(1, &dims, nullptr);
                H5Pset_virtual(properties, space, "other.h5", "/v", space);
                make_dataset(file, "v", H5T_IEEE_F64LE, {16}, properties);
                H5Sclose(space);
                H5Pclose(properties);
              }),
              HasSubstr("virtual"));
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
                const hsize_t chunk = 4;
                H5Pset_chunk(properties, 1, &chunk);
                H5Pset_shuffle(properties);
                make_dataset(file, "v", H5T_IEEE_F64LE, {16}, properties);
                H5Pclose(properties);
              }),
              HasSubstr("chunked"));
}

TEST_F(HostileFile, SizesBeyondTheFileAreRefused) {
  EXPECT_THAT(refusal([](hid_t file) {
                make_dataset(file, "v", H5T_IEEE_F32LE, {hsize_t{1} << 31, hsize_t{1} << 29});
              }),
              HasSubstr("claims more bytes than the file holds"));
  EXPECT_THAT(refusal([](hid_t file) { make_dataset(file, "v", H5T_IEEE_F64LE, {100000}); }),
              HasSubstr("claims more bytes than the file holds"));
}

TEST_F(HostileFile, OtherTypesAreRefused) {
  EXPECT_THAT(refusal([](hid_t file) { make_dataset(file, "v", H5T_IEEE_F64BE, {8}); }),
              HasSubstr("element type"));
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t type = H5Tcopy(H5T_C_S1);
                H5Tset_size(type, H5T_VARIABLE);
                const hsize_t dims = 4;
                const hid_t space = H5Screate_simple(1, &dims, nullptr);
                H5Dclose(H5Dcreate2(file, "v", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                H5Sclose(space);
                H5Tclose(type);
              }),
              HasSubstr("element type"));
  EXPECT_THAT(refusal([](hid_t file) {
                const hid_t type = H5Tcopy(H5T_IEEE_F64LE);
                H5Tcommit2(file, "type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                H5Tclose(type);
              }),
              HasSubstr("neither a group nor a dataset"));
}

TEST_F(HostileFile, GroupsInACircleEndTheWalk) {
  EXPECT_EQ(refusal([](hid_t file) {
              const hid_t group = H5Gcreate2(file, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
              H5Lcreate_hard(file, "/", group, "up", H5P_DEFAULT, H5P_DEFAULT);
              H5Gclose(group);
            }),
            "");
}

TEST_F(HostileFile, AttributesOfOtherKindsAreRefused) {
  const std::string path = (folder / "a.h5").string();
  ASSERT_EQ(refusal([](hid_t file) {
              const hid_t type = H5Tcopy(H5T_C_S1);
              H5Tset_size(type, H5T_VARIABLE);
              const hid_t space = H5Screate(H5S_SCALAR);
              const hid_t attribute = H5Acreate2(file, "text", type, space, H5P_DEFAULT, H5P_DEFAULT);
              const char* value = "of any length";
              H5Awrite(attribute, type, &value);
              H5Aclose(attribute);
              H5Sclose(space);
              H5Tclose(type);
            }),
            "");
  const H5File file = H5File::open(path);
  EXPECT_THROW(file.text_attribute("text"), H5Error);
  EXPECT_THROW(file.integer_attribute("text"), H5Error);
}

}  // namespace
}  // namespace kumiko::data
